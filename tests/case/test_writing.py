"""What cannot be written is one sentence, said first, and no part of a file is left."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from pathlib import Path

import pytest

from validation.case import writing
from validation.case.errors import EnvironmentMissing, UsageError


def test_a_folder_that_is_not_there_yet_may_be_written_and_is_not_made(tmp_path: Path) -> None:
    writing.check_folder(tmp_path / "results" / "more", "--results")
    writing.check_folder(tmp_path, "--results")
    writing.check_file(tmp_path / "results" / "manifest.json", "--output")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["file", "file/below", "link"])
def test_a_folder_that_is_a_file_or_leads_nowhere(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(
        UsageError, match=rf"^--results {tmp_path / below}: no file can be made in .*; name a folder that can be"
    ):
        writing.check_folder(tmp_path / below, "--results")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_permissions_are_not_asked(tmp_path: Path) -> None:
    """Root may write anywhere, by them."""
    with pytest.raises(UsageError, match="no file can be made in /proc "):
        writing.check_folder(Path("/proc/results"), "--results")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write it")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        writing.check_file(tmp_path / "file", "--output")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_nothing_is_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No other name of a folder is meant by whoever gave this one: the exit code is 3."""

    def refused(dir: Path) -> None:  # noqa: A002 - as tempfile calls it
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(EnvironmentMissing, match=rf"^--results {tmp_path}: .*; make room there, or name another folder"):
        writing.check_folder(tmp_path, "--results")


def test_a_file_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^--output {tmp_path}: is a folder; name a file that can be written"):
        writing.check_file(tmp_path, "--output")


def test_no_part_is_left_of_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    with pytest.raises(IsADirectoryError):
        writing.write(tmp_path / "docs", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


def test_a_file_is_there_with_the_folders_that_it_is_in(tmp_path: Path) -> None:
    writing.write(tmp_path / "a" / "b", "text")
    assert (tmp_path / "a" / "b").read_text(encoding="utf-8") == "text"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_disk_that_fills_up_while_a_file_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    """By the limit that the operating system has for files: the first bytes go, the others do not."""
    record, limits = tmp_path / "record.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    writing.write(record, "what was measured")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            writing.write(record, "0" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert record.read_text(encoding="utf-8") == "what was measured"
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


ROOT = Path(writing.__file__).parents[2]
OTHERWISE = {
    "validation/case/writing.py": "it is the one that does it",
    "validation/convert/megatron_args.py": "a folder that gets its name when it is whole",
    "validation/convert/unfinished.py": "renamed when it is whole",
    "validation/reference/store.py": "sealed, with digests",
    "validation/candidate/kept_steps.py": "renamed when it is whole, with digests",
    "validation/run/report.py": "a rank's own words: renamed, or not read",
    "validation/run/held.py": "renamed, in a run's own folder, which must not come back if the run has ended",
    "validation/recipe/capture.py": "a folder of one run of a launch script",
    "validation/recipe/parser.py": "a table of the repository, which git has",
    "validation/scorecard/traced.py": "a folder of one run, which ends with its rank",
}
"""Module that writes text by another way -> why no reader takes a part of it for the whole."""


def test_every_other_text_is_written_in_one_step() -> None:
    folders = ("validation", "ci", "plumbline", "docs/made")
    modules = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in modules if ".write_text(" in path.read_text(encoding="utf-8")}
    assert found == set(OTHERWISE)
