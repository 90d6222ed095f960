"""An interrupt while a command's modules are imported: one sentence, exit code 130, and no report of an earlier run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_AT = """
import runpy, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
sys.argv[1:] = {words!r}
runpy.run_module({package!r}, run_name="__main__", alter_sys=True)
"""
"""A program that is interrupted when it imports a module. A signal would come at another place each time."""


def interrupted(package: str, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What came of a command that is interrupted there."""
    program = _AT.format(package=package, name=name, words=list(words))
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["atexit", "validation.case.errors", "validation.cli", "validation.run.options"])
def test_a_run_that_is_interrupted_before_it_starts_says_so(name: str, tmp_path: Path) -> None:
    """Reports of an earlier run have left their place."""
    (tmp_path / "tiny-single.xml").write_text("<testsuites/>")
    found = interrupted("validation", name, "run", "--results", str(tmp_path))
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "error: interrupted\n")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.xml")] == ["before/tiny-single.xml"]


@pytest.mark.parametrize("name", ["ci.cli", "argparse", "ci.gate", "ci.junit"])
def test_a_command_of_the_pipeline_says_so_at_any_time(name: str, tmp_path: Path) -> None:
    """The last two are imported when the command is known."""
    found = interrupted("ci", name, "gate", "--manifest", str(tmp_path / "m.json"), "--results", str(tmp_path))
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "error: interrupted\n")


def test_anything_else_that_ends_the_start_is_raised(tmp_path: Path) -> None:
    """A defect in this tree, which its traceback shows."""
    (tmp_path / "tiny-single.xml").write_text("<testsuites/>")
    program = _AT.replace("KeyboardInterrupt", "ZeroDivisionError")
    words = ["run", "--results", str(tmp_path)]
    given = [sys.executable, "-c", program.format(package="validation", name="validation.cli", words=words)]
    found = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.endswith("ZeroDivisionError\n")
    assert [path.parent.name for path in tmp_path.rglob("*.xml")] == ["before"]
