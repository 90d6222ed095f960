"""What a long run of mutants says of itself while it goes on."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from tests.mutants import progress
from tests.mutants.progress import Progress


def written(folder: Path, module: str, *codes: int | None) -> Path:
    """A file in which mutmut would keep these exit codes."""
    path = folder / "mutants" / f"{module}.meta"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {f"{module}.x_f__mutmut_{number}": code for number, code in enumerate(codes, start=1)}
    path.write_text(json.dumps({"exit_code_by_key": names}), encoding="utf-8")
    return path


def test_progress_counts_every_module_of_the_row(tmp_path: Path) -> None:
    """Survived, no test found and no test known are unnoticed; a failure, a timeout and a crash are not."""
    written(tmp_path, "ci/gate.py", 1, 0, None, 33)
    written(tmp_path, "ci/page/run.py", 5, -24, -11, None)
    assert progress.progress(tmp_path) == Progress(6, 8, 3)
    assert str(Progress(6, 8, 3)) == "6 of 8 mutants tried, 3 unnoticed (equivalent ones included)"


def test_there_is_no_progress_before_mutants_are_made_nor_from_half_a_file(tmp_path: Path) -> None:
    assert progress.progress(tmp_path) is None
    path = written(tmp_path, "ci/gate.py", 1)
    path.write_text(path.read_text(encoding="utf-8")[:-3], encoding="utf-8")
    assert progress.progress(tmp_path) is None


def test_progress_is_told_until_the_block_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be read now is told the next time, and no thread is left behind."""
    path, threads = written(tmp_path, "ci/gate.py", 1, None), {*threading.enumerate()}
    path.write_text("{", encoding="utf-8")
    said = ""
    with progress.told(tmp_path, every=0.01):
        time.sleep(0.05)
        written(tmp_path, "ci/gate.py", 1, 0)
        until = time.monotonic() + 60
        while "2 of 2" not in said and time.monotonic() < until:
            said += capsys.readouterr().out
    assert set(said.splitlines()) == {"2 of 2 mutants tried, 1 unnoticed (equivalent ones included)"}
    assert {*threading.enumerate()} <= threads


def test_the_first_line_comes_after_the_time_between_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row that ends at once has no progress to tell."""
    written(tmp_path, "ci/gate.py", 1)
    with progress.told(tmp_path):
        pass
    assert capsys.readouterr().out == ""
