"""AGENTS.md and the skill: every command in them is read by the program that it calls, and the cheap ones are run.

Run for real are the planted defect with its command of `Reproduce:`, the plan of a pull request and the doctor. All others are
read as far as their cases (tests/understood.py); what sets up a machine is looked at by hand.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci import cli as pipeline
from tests.checks.conftest import warm
from tests.understood import ROOT, in_blocks, understand
from validation.case.errors import ExitCode

SKILL = ROOT / "skills" / "plumbline" / "SKILL.md"
AGENTS = ROOT / "AGENTS.md"
PAGES = (AGENTS, SKILL)


def text(page: Path) -> str:
    """Of a page."""
    return page.read_text(encoding="utf-8")


COMMANDS = [command for page in PAGES for command in in_blocks(text(page), "bash")]
PLANTED = next(command for command in COMMANDS if "reduction_lost" in command and "single,tp2,pp2" in command)


def run(command: str, results: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command as it stands, with this Python. One with `results`, a folder, runs in the process that tests share."""
    words = shlex.split(command, comments=True)
    assert words[0] == "python"
    if results:
        assert words[1:3] == ["-m", "validation"]
        return warm([*words[3:], "--results", str(results)], results.with_name("cache"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PLUMBLINE_SESSION")}
    started = [sys.executable, *words[1:]]
    return subprocess.run(started, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The skill's example, run."""
    results = tmp_path_factory.mktemp("planted")
    return run(PLANTED, results), results


def header() -> Mapping[str, str]:
    """The fields in front of the skill."""
    _, front, _ = text(SKILL).split("---\n", 2)
    return dict(yaml.safe_load(front))


def test_the_skill_has_the_fields_by_which_it_is_found() -> None:
    """Those of NVIDIA's own skills; the name is the folder's, and a description has at most 1024 characters."""
    fields = header()
    assert list(fields) == ["name", "description", "license", "when_to_use"]
    assert fields["name"] == SKILL.parent.name
    assert len(fields["description"]) <= 1024
    assert fields["license"] == "Apache-2.0"


def test_both_pages_stay_short() -> None:
    """What is longer is not read."""
    assert len(text(AGENTS).splitlines()) <= 30
    assert len(text(SKILL).splitlines()) <= 200


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command: str) -> None:
    understand(command, possible=True)


@pytest.mark.parametrize(
    "command",
    [
        "python -m validation run --layout tp2 --onyl x",
        "python -m validation run --layouts tp3",
        "python -m validation run --layouts tp2 --self-tets",
        "python -m validation rum --tp 2",
        "python -m ci gate --manifets a",
        "nox -s parityy",
        "nox -s cpu_tp2 -- --layuots tp2",
        "python -m pytest tests/ci/test_gate_that_is_not.py",
        "plumbline run --layouts tp3",
        "make tests",
    ],
)
def test_a_wrong_command_is_not(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((Exception, SystemExit)):
        understand(command, possible=True)


def options() -> set[str]:
    """Of all commands of `python -m validation` and `python -m ci`."""
    from validation import cli

    found = set[str]()
    parsers = [cli._parser(), *(pipeline._parser(name) for name in pipeline.COMMANDS)]
    for parser in parsers:
        for action in parser._actions:
            for command in getattr(action, "choices", None) or {}:
                found |= set(re.findall(r"--[a-z][a-z-]+", action.choices[command].format_help()))  # type: ignore[index]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_a_page_names_exists(page: Path) -> None:
    known = options() | {"--strict"}  # mypy's
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text(page)))
    assert named
    assert sorted(named - known) == []


def test_commands_within_a_line_are_understood() -> None:
    """Whole commands; FILE, DIR and package.module stand for what a reader has. A program's bare name is no command."""
    found = re.findall(r"`((?:python -m \w+|nox|plumbline) [^`]+)`", text(SKILL) + text(AGENTS))
    assert len(found) > 3
    for command in found:
        understand(command.replace("DIR DIR", "one two"), possible=True)


def test_the_exit_codes_are_those_there_are_and_one_may_be_tried_again() -> None:
    listed = re.findall(r"^\| (\d+) \| (.*?) \| (.*?) \|$", text(SKILL), re.MULTILINE)
    assert [int(code) for code, _, _ in listed] == sorted(code.value for code in ExitCode)
    assert [int(code) for code, _, step in listed if step.startswith("run it once more")] == [ExitCode.INFRASTRUCTURE]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`([\w.]+(?:/[\w.*]+)+)`", text(page)))
    named |= {path for path in re.findall(r"\]\(([^)#]+)\)", text(page)) if "://" not in path}
    assert len(named) > 3
    assert [path for path in sorted(named) if not list(ROOT.glob(path))] == []


def test_the_planted_defect_says_what_the_skill_says(
    planted: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    """Line by line; `...` stands for what depends on the machine or on the number of checks."""
    done, _ = planted
    assert done.returncode == ExitCode.FAIL, done.stderr
    (said,) = re.findall(r"^```text\n(.*?)^```$", text(SKILL), re.MULTILINE | re.DOTALL)
    lines = done.stdout.splitlines()
    for line in said.splitlines():
        pattern = ".*".join(re.escape(part).replace(r"\ ", " +") for part in line.split("..."))
        assert any(re.fullmatch(pattern, one) for one in lines), f"nobody says {line!r}:\n{done.stdout}"


def test_the_command_of_reproduce_is_the_skills_and_fails_alike(
    planted: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    """It runs one check and says that it left the others out."""
    done, results = planted
    (command,) = re.findall(r"^Reproduce: (.+)$", done.stdout, re.MULTILINE)
    assert command in COMMANDS
    again = run(command, results)
    assert again.returncode == ExitCode.FAIL, again.stderr
    assert re.search(r"FAIL \(1 check, 1 fail, \d+ left out", again.stdout)


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed: it reads the JSON of a run")
@pytest.mark.parametrize(
    ("document", "said"),
    [
        (
            {"verdict": "FAIL", "diagnosis": {"sentence": "why"}, "suites": [{"first": {"reproduce": "this"}}, {"name": "b"}]},
            ["FAIL", "why", "this"],
        ),
        ({"verdict": "PASS", "suites": [{"name": "a"}]}, ["PASS"]),
        ({"verdict": "ERROR", "error": "what is wrong"}, ["ERROR", "what is wrong"]),
    ],
)
def test_the_filter_of_json_says_verdict_cause_and_command(document: Mapping[str, Any], said: list[str]) -> None:
    """Of a run that failed, one that passed, and one that ended before its start."""
    (command,) = [command for command in COMMANDS if command.startswith("jq ")]
    words = shlex.split(command)[:-1]
    done = subprocess.run(words, input=json.dumps(document), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == said


def test_the_plan_and_the_doctor_run() -> None:
    for command in COMMANDS:
        if command.startswith(("python -m ci", "python -m validation doctor")):
            done = run(command)
            assert done.returncode == ExitCode.PASS, done.stderr
            assert done.stdout
