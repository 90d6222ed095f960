"""`--megatron-path` as a user gives it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.checks.conftest import Output, command
from validation import checkout

SMALL = ("--layouts", "single", "--set", "num_layers=1", "--steps", "0", "--seq-length", "8")


def test_wrong_paths_end_with_2_before_anything_starts(tmp_path: Path) -> None:
    for words in (["run", "--results", str(tmp_path / "results")], ["doctor"]):
        done = command([*words, "--megatron-path", str(tmp_path)], tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: --megatron-path")
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("from megatron.core.transformer import no_such_name\n", "ImportError: cannot import name 'no_such_name'"),
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("raise RuntimeError('half a merge')\n", "RuntimeError('half a merge')"),
    ],
    ids=["name", "package", "other"],
)
def test_what_cannot_be_imported_is_shown_as_what_it_is(tmp_path: Path, cache: Path, line: str, said: str) -> None:
    """The fork server meets it first. The code under test raised, whichever package it asked for."""
    copied = tmp_path / "Megatron-LM" / "megatron" / "core"
    shutil.copytree(str(checkout.core()), copied)
    broken = copied / "optimizer" / "__init__.py"
    broken.write_text(line + broken.read_text())
    words = [*SMALL, "--megatron-path", str(tmp_path / "Megatron-LM"), "--results", str(tmp_path / "results")]
    done = command(["run", *words], cache)
    assert done.returncode == 1, done.stdout[-2000:]
    (shown,) = re.findall(r"^ERROR: Every rank finishes - (.*)$", done.stdout, re.M)
    assert shown.startswith(f"rank 0 raised {said}")
    assert str(broken) in (shown if "Error:" in said else done.stdout)
    assert done.stderr == ""


def test_the_ranks_run_the_checkout(tmp_path: Path, cache: Path) -> None:
    """Seen in a copy of the installed one that says it is another version: the version in the file is the ranks'."""
    installed, results = checkout.core(), tmp_path / "results"
    assert installed is not None
    copied = tmp_path / "Megatron-LM" / "megatron" / "core"
    shutil.copytree(installed, copied)
    info = copied / "package_info.py"
    info.write_text(info.read_text().replace("PATCH = ", "PATCH = 99"))
    words = [*SMALL, "--megatron-path", str(tmp_path / "Megatron-LM"), "--results", str(results)]
    done = command(["run", *words], cache)
    assert done.returncode == 0, done.stdout[-2000:]
    suite = Output(done.returncode, done.stdout, results).suite("tiny-single-fp64-local-gloo")
    said = {found.attrib["name"]: found.attrib["value"] for found in suite.iterfind("properties/property")}
    assert said["megatron-path"] == "Megatron-LM"
    assert said["megatron-core"] == checkout.version(copied) != checkout.version(installed)
