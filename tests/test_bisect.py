"""The recipe of docs/bisect.md, as it stands there: real git, real exit codes, and a stand-in for the run.

Each commit of a small repository says with which exit code the run ends on it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ci.test_reproduction_block import git
from validation.case.errors import ExitCode

PAGE = Path(__file__).parents[1] / "docs" / "bisect.md"
STAND_IN = """\
import pathlib, sys
assert pathlib.Path("here").exists(), "not started in Plumbline's folder"
folder = pathlib.Path(sys.argv[sys.argv.index("--megatron-path") + 1])
sys.exit(int((folder / "code").read_text()))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The script of the page, and beside it a Plumbline that ends with the code that a commit of Megatron holds."""
    (text,) = re.findall(r"```sh\n(#!/bin/sh\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "bisect.sh"
    path.write_text(text, encoding="utf-8")
    (tmp_path / "plumbline" / "validation").mkdir(parents=True)
    (tmp_path / "plumbline" / "validation" / "__main__.py").write_text(STAND_IN, encoding="utf-8")
    (tmp_path / "plumbline" / "here").touch()
    return path


def bisected(script: Path, codes: list[int]) -> tuple[int, str]:
    """Exit code and words of `git bisect run` over commits that end with these codes, the first good and the last bad."""
    megatron = script.parent / "megatron"
    megatron.mkdir()
    git(megatron, "init", "--quiet")
    for number, code in enumerate(codes):
        (megatron / "code").write_text(f"{code}", encoding="utf-8")
        (megatron / "number").write_text(f"{number}", encoding="utf-8")
        git(megatron, "add", ".")
        git(megatron, "commit", "--quiet", "-m", f"commit {number}")
    git(megatron, "bisect", "start", "HEAD", f"HEAD~{len(codes) - 1}")
    command = [
        "sh",
        str(script),
        sys.executable,
        "-m",
        "validation",
        "run",
        "--layouts",
        "tp2",
        "--megatron-path",
        str(megatron),
    ]
    done = subprocess.run(
        ["git", "bisect", "run", *command],
        cwd=megatron,
        env={**os.environ, "PLUMBLINE": str(script.parent / "plumbline"), "PYTHONSAFEPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_first_bad_commit_is_found_past_those_that_cannot_be_decided(script: Path) -> None:
    codes = [0, 0, 2, 0, 3, 4, 0, 1, 1, 4, 1, 1]
    code, said = bisected(script, codes)
    assert code == 0, said
    assert re.search(r"is the first bad commit\n.*commit 7\n", said, re.DOTALL)


@pytest.mark.parametrize("undecided", [ExitCode.USAGE, ExitCode.ENVIRONMENT, ExitCode.INFRASTRUCTURE])
def test_a_commit_that_cannot_be_decided_is_neither_good_nor_bad(script: Path, undecided: ExitCode) -> None:
    code, said = bisected(script, [0, int(undecided), 1])
    assert code == 2
    assert "There are only 'skip'ped commits left to test." in said
    assert "commit 1" not in said.partition("The first bad commit could be any of:")[0].rpartition("is the first bad")[0]


def test_an_interrupted_run_stops_the_search(script: Path) -> None:
    code, said = bisected(script, [0, 0, int(ExitCode.INTERRUPTED), 1, 1])
    assert code != 0
    assert "exit code 130" in said


def test_every_exit_code_is_in_the_pages_table() -> None:
    """One that is added must be decided about."""
    rows = re.findall(r"^\| ([0-9, ]+?)(?: and above)? \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {int(code) for row in rows for code in row.split(",")} == {int(code) for code in ExitCode}
