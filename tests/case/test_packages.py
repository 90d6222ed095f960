"""A Python without the packages is told so in one sentence, whatever it is asked; the doctor looks at it nevertheless."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from validation.case import packages
from validation.case.errors import EnvironmentMissing

ROOT = Path(__file__).parents[2]
BARE = """import runpy, sys
root, module, *words = sys.argv[1:]
sys.path.insert(0, root)
sys.argv = [module, *words]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def bare(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS` of an isolated interpreter, which has no packages."""
    command = [sys.executable, "-I", "-S", "-c", BARE, str(ROOT), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)


@pytest.mark.parametrize("words", ["run --tp 2", "--help", "convert --load a --save b --to-hf", "compare a b", "faults --list"])
def test_every_command_names_what_is_missing(words: str, tmp_path: Path) -> None:
    done = bare(tmp_path, "validation", *words.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith(f"error: {', '.join(packages.NEEDED)}: not installed for ")
    assert "`. .nox/cpu/bin/activate` has what nox installed" in done.stderr
    assert "`pip install -r requirements/cpu.txt` brings what is missing" in done.stderr


def test_the_help_of_run_needs_none_of_them(tmp_path: Path) -> None:
    done = bare(tmp_path, "validation", "run", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--layouts" in done.stdout


@pytest.mark.parametrize("words", ["matrix --event nightly", "manifest --event nightly", "gate --help", "attempts -- run"])
def test_so_does_every_command_of_the_pipeline(words: str, tmp_path: Path) -> None:
    done = bare(tmp_path, "ci", *words.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith("error: pyyaml, junitparser, packaging, pytest: not installed for ")
    assert "`pip install -r requirements/ci.txt` brings what is missing" in done.stderr


def test_the_doctor_goes_through_all_of_it(tmp_path: Path) -> None:
    done = bare(tmp_path, "validation", "doctor")
    assert (done.returncode, done.stderr) == (3, "")
    assert all(f"{name}: not installed - " in done.stdout for name in packages.NEEDED)


def test_a_module_that_is_none_of_them_is_a_defect() -> None:
    with pytest.raises(ModuleNotFoundError), packages.asked_for(packages.NEEDED, "cpu"):
        __import__("validation.no_such_module")


def test_one_that_is_there_and_cannot_be_imported_is_no_missing_one() -> None:
    """Its own sentence says what it lacks."""
    with pytest.raises(ModuleNotFoundError, match="yaml"), packages.asked_for(packages.NEEDED, "cpu"):
        raise ModuleNotFoundError("No module named 'yaml._yaml'", name="yaml._yaml")


def test_a_module_has_the_name_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_installed", lambda name: name != "pyyaml")
    with pytest.raises(EnvironmentMissing, match=r"^pyyaml: not installed for "), packages.asked_for(packages.NEEDED, "cpu"):
        raise ModuleNotFoundError("No module named 'yaml'", name="yaml")


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_says_how_to_use_what_nox_installed(name: str) -> None:
    """In its first section, before the first `python -m validation`."""
    text = (ROOT / name).read_text(encoding="utf-8")
    line = text.index("\n. .nox/cpu/bin/activate ")
    assert line < text.index("\npython -m validation run")
    assert line < text.index("\n## ", text.index("\n## ") + 1)


@pytest.mark.parametrize("name", ["quick-start", "comparing"])
def test_so_do_the_pages_that_a_reader_copies_from(name: str) -> None:
    """In front of the first `python -m validation run` of a page's first block of them."""
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    blocks = [block for block in text.split("```")[1::2] if "\npython -m validation run" in block]
    assert blocks[0].startswith("\n. .nox/cpu/bin/activate")
