"""What cannot be written is one sentence, said first, and no part of a file is left."""

from __future__ import annotations

import errno
import os
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
