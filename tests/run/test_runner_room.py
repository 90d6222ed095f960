"""A reference that the disk has no room for is not computed, and a run that the machine does not let start is told."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from validation.case import disk
from validation.case.errors import ExitCode
from validation.reference import store
from validation.run import launch
from validation.run.options import parsed
from validation.run.references import REFERENCES
from validation.run.report import RankReport
from validation.run.runner import Runner


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
    return Runner(parsed(["--results", str(tmp_path / "results")]))


def test_what_became_full_since_the_start_ends_the_case_at_once(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a reference that cannot be kept."""
    monkeypatch.setattr(REFERENCES, "compute", lambda *given: pytest.fail("it was computed"))
    monkeypatch.setattr(disk, "_free", lambda folder: 1 << 20)
    (case,) = runner._settings.cases
    broken = runner.run(case).broken
    assert broken is not None
    assert broken.exit_code == ExitCode.ENVIRONMENT
    assert broken.sentence.startswith("the cache of references needs about 37.4 MiB")
    runner.close()


def test_a_temporary_folder_that_takes_nothing_breaks_the_case(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is a result as every broken run is, no exception that each check would show."""

    def full(keep: Path | None = None) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    (case,) = runner._settings.cases
    monkeypatch.setattr(store, "find", lambda case, home: store.Reference(tmp_path))
    monkeypatch.setattr(store.Reference, "facts", lambda self: {})
    monkeypatch.setattr(launch, "run_folder", full)
    broken = runner.run(case).broken
    assert broken is not None
    assert broken.exit_code == ExitCode.ENVIRONMENT
    assert broken.sentence.startswith("the ranks could not be started: [Errno 28] No space left on device")
    assert "are needed in" in broken.sentence
    runner.close()


def test_a_report_that_the_disk_has_no_room_for_leaves_room_for_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk holds 5000 bytes: findings fill it, and their part is gone before the word is written."""
    write = Path.write_text

    def limited(path: Path, text: str) -> int:
        held = sum(other.stat().st_size for other in tmp_path.iterdir() if other != path)
        write(path, text[: 5000 - held])
        if held + len(text) > 5000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(text)

    monkeypatch.setattr(Path, "write_text", limited)
    report = RankReport(tmp_path, 0)
    with pytest.raises(OSError, match="No space left"), report.last_words():
        report.write({"findings": "x" * 6000})
    left = json.loads((tmp_path / "rank-0.error").read_text())
    assert left["exit_code"] == ExitCode.ENVIRONMENT
    assert not report.path("json.part").exists()
