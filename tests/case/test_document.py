"""`--format json`: standard output has the document alone, however a command ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from validation.case import document
from validation.case.errors import ExitCode

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["run", "--format", "json"], True),
        (["run", "--format=json", "-v"], True),
        (["run", "--form", "json"], True),
        (["run", "--format", "text"], False),
        (["run", "--format", "json", "--format", "text"], False),
        (["run", "--format"], False),
        (["run", "--fp8", "json"], False),
        (["run", "--format", "json", "--help"], False),
        (["run"], False),
    ],
    ids=str,
)
def test_json_is_asked_for_by_the_option(words: list[str], asked: bool) -> None:
    """Abbreviated as argparse takes it; the last one counts."""
    assert document.asked_for(words) is asked


def work(what: str) -> str:
    """A Python program whose command does `what` with its document `said`."""
    lines = (
        "import subprocess, sys",
        "from validation.case import document",
        "def work(said):",
        "    print('a line')",
        "    subprocess.run(['echo', 'of another process'])",
        f"    {what}",
        "print('before'); sys.exit(document.of('run', work))",
    )
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("said['checks'] = 3; return 0", 0, {"checks": 3, "verdict": "PASS"}),
        ("return 1", 1, {"verdict": "FAIL"}),
        ("said['verdict'] = 'ERROR'; return 1", 1, {"verdict": "ERROR"}),
        ("return 4", 4, {"verdict": "ERROR"}),
        ("raise KeyboardInterrupt", 130, {"verdict": "ERROR", "error": "interrupted"}),
        ("sys.exit(3)", 3, {"verdict": "ERROR", "error": "the command ended early; standard error says why"}),
        ("raise ValueError('no')", 1, {"verdict": "FAIL", "error": "ValueError('no')"}),
    ],
)
def test_the_document_is_all_of_standard_output(what: str, code: int, said: dict[str, object]) -> None:
    """What the command and its processes print is on standard error, and what was printed before has been written before."""
    done = subprocess.run([sys.executable, "-c", work(what)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    before, _, text = done.stdout.partition("\n")
    assert before == "before"
    assert json.loads(text) == {"schema": 1, "command": "run", "exit_code": code, **said}
    assert "a line\nof another process\n" in done.stderr or "of another process\na line\n" in done.stderr


def test_standard_output_is_what_it_was_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    """In a process that goes on."""
    assert document.of("run", lambda said: ExitCode.PASS) == 0
    print("after")  # noqa: T201 - the test is about printing
    first, _, last = capsys.readouterr().out.rpartition("after")
    assert (json.loads(first)["exit_code"], last) == (0, "\n")


@pytest.mark.parametrize(
    ("text", "number"), [("1e-3", 0.001), (2.5, 2.5), ("inf", None), ("nan", None), (None, None), ("many", None)]
)
def test_a_number_that_json_has_not_is_null(text: str | float | None, number: float | None) -> None:
    assert document.number(text) == number
