"""`--megatron-path` as a user gives it."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.checks.conftest import Output, command, warm
from validation import checkout

SMALL = ("--layouts", "single", "--set", "num_layers=1", "--steps", "0", "--seq-length", "8")


def test_wrong_paths_end_with_2_before_anything_starts(tmp_path: Path) -> None:
    for words in (["run", "--results", str(tmp_path / "results")], ["doctor"]):
        done = warm([*words, "--megatron-path", str(tmp_path)], tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: --megatron-path")
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("from megatron.core.transformer import no_such_name\n", "ImportError: cannot import name 'no_such_name'"),
        ("raise RuntimeError('half a merge')\n", "RuntimeError('half a merge')"),
    ],
    ids=["name", "other"],
)
def test_what_cannot_be_imported_is_shown_as_what_it_is(tmp_path: Path, cache: Path, line: str, said: str) -> None:
    """The fork server meets it first. The code under test raised."""
    broken = _with(tmp_path, line)
    done = command(["run", *_words(tmp_path)], cache)
    assert done.returncode == 1, done.stdout[-2000:]
    (shown,) = re.findall(r"^ERROR: Every rank finishes - (.*)$", done.stdout, re.M)
    assert shown.startswith(f"rank 0 raised {said}")
    assert str(broken) in (shown if "Error:" in said else done.stdout)
    assert done.stderr == ""


def test_what_it_asks_for_and_is_not_installed_ends_with_3_before_anything_starts(tmp_path: Path, cache: Path) -> None:
    broken = _with(tmp_path, "import no_such_package\n")
    done = command(["run", *_words(tmp_path)], cache)
    assert done.returncode == 3
    assert "Overall result" not in done.stdout
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"needs no_such_package, which is not installed for {sys.executable}" in said
    assert f"({broken.relative_to(tmp_path / 'Megatron-LM')}, line 1, imports it); `pip install no-such-package`" in said
    assert not (tmp_path / "results").exists()


def _with(folder: Path, line: str) -> Path:
    """A copy of the installed megatron-core with this line in front of one of its files."""
    copied = folder / "Megatron-LM" / "megatron" / "core"
    shutil.copytree(str(checkout.core()), copied)
    changed = copied / "optimizer" / "__init__.py"
    changed.write_text(line + changed.read_text())
    return changed


def _words(folder: Path) -> list[str]:
    return [*SMALL, "--megatron-path", str(folder / "Megatron-LM"), "--results", str(folder / "results")]


def test_the_ranks_run_the_checkout(tmp_path: Path, cache: Path) -> None:
    """Seen in a copy of the installed one that says it is another version: the version in the file is the ranks'."""
    installed, results = checkout.core(), tmp_path / "results"
    assert installed is not None
    copied = tmp_path / "Megatron-LM" / "megatron" / "core"
    shutil.copytree(installed, copied)
    info = copied / "package_info.py"
    info.write_text(info.read_text().replace("PATCH = ", "PATCH = 99"))
    done = command(["run", *_words(tmp_path)], cache)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-2000:]
    suite = Output(done.returncode, done.stdout, results).suite("tiny-single-fp64-local-gloo")
    said = {found.attrib["name"]: found.attrib["value"] for found in suite.iterfind("properties/property")}
    assert said["megatron-path"] == "Megatron-LM"
    assert said["megatron-core"] == checkout.version(copied) != checkout.version(installed)
