"""The front: one command a module, said in one line each, and none loaded that is not asked for."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ci.cli import COMMANDS, main
from tests.ci.green import command_line
from validation.case import packages

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_module_and_says_what_its_options_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"ci.{name}")
    assert callable(module.main)
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.count("  --") >= 1
    assert "exit codes: 0 green or done, 1 red" in said


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{name} {does}" in said for name, does in COMMANDS.items())


def test_help_says_what_the_front_is_and_what_a_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    """The description first, and the exit codes last."""
    codes = "exit codes: 0 green or done, 1 red, 2 wrong usage, 3 something is missing here, 4 the run broke (attempts only)"
    for words, usage, does in (
        ([], "usage: python -m ci [-h] [--version] command ...", "What runs where, and may this be merged?"),
        (["sessions"], "usage: python -m ci sessions [-h] [--check]", "Write docs/matrix.md, the table of all sessions."),
    ):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert said.startswith(f"{usage} {does} ")
        assert said.endswith(codes)


def test_without_arguments_the_command_line_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["python -m ci", "drift", "--base", "none", "--results", "none"])
    assert main() == 2
    assert capsys.readouterr().err.startswith("error: --base none: no results are there")
    monkeypatch.setattr("sys.argv", ["python -m ci"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("attempts; --help says what each does\n")


@pytest.mark.parametrize("words", [[], ["walk"], ["gate"], ["gate", "--colour"]])
def test_a_word_that_is_no_command_is_wrong_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_without_its_packages_it_says_what_brings_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the pipeline alone: it needs neither torch nor the rest."""

    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="junitparser")

    monkeypatch.setattr(importlib, "import_module", missing)
    monkeypatch.setattr(packages, "_installed", lambda name: False)
    assert main(["gate"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: pyyaml, junitparser, packaging, pytest: not installed for ")
    assert said.endswith("`pip install -r requirements/ci.txt` brings what is missing\n")


def test_python_m_ci_is_this_front() -> None:
    words = [sys.executable, "-m", "ci", "drift", "--base", "none", "--results", "none"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --base none: no results are there")


def test_help_loads_no_command() -> None:
    """Planning needs PyYAML and nothing else."""
    told = "import sys\nfrom ci.cli import _parser\n_parser('')\nprint('junitparser' in sys.modules, 'yaml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, timeout=1800, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize(
    "words",
    [
        ["gate", "--manifest", "m.json", "--results", "results", "--megatron-commit", ""],
        ["gate", "--manifest", "m.json", "--results", "results", "--commit", ""],
        ["page", "--results", "results", "--manifest", ""],
        ["summary", "--manifest", "m.json", "--results", "results", "--base", ""],
        ["manifest", "--session", "cpu_tp2", "--output", ""],
        ["drift", "--base", "base", "--results", ""],
    ],
    ids=lambda words: f"{words[0]} {words[-2]}",
)
def test_an_empty_option_is_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A gate that is given no commit of Megatron for want of a variable asks for none."""
    assert main(words) == 2
    assert capsys.readouterr().err == f"error: {words[-2]} is empty: give it a value, or leave it out\n"


def test_the_gate_says_in_json_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What argparse refuses, and what is refused later; the sentence is on standard error, too."""
    assert main(["gate", "--format", "json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert (said["command"], said["verdict"], said["exit_code"]) == ("gate", "ERROR", 2)
    assert said["error"] == "the following arguments are required: --manifest, --results"
    assert main(["gate", "--manifest", "", "--results", str(tmp_path), "--format=json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"].startswith("--manifest is empty")
    assert captured.err.startswith("error: --manifest is empty")


def test_the_gate_says_in_json_what_it_has_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", *command_line(tmp_path), "--format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["exit_code"], said["testsuites"], said["reasons"]) == ("PASS", 0, 1, [])
    assert said["counts"] == {"pass": 3, "known": 1}


def test_a_command_without_a_document_does_not_know_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["sessions", "--format", "json"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "unrecognized arguments: --format json" in captured.err


def test_the_gate_tells_a_reader_without_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["gate"])
    assert capsys.readouterr().out == ""
