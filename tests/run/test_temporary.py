"""Temporary folders as schedulers make them: a run's files lie there, its sockets where a path may be that long."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from validation.case.errors import EnvironmentMissing
from validation.run import temporary

STARTS = """
import multiprocessing, os, sys, tempfile
from validation.run import temporary

def said(sending):
    sending.send(tempfile.gettempdir())

if __name__ == "__main__":
    folder = temporary.settle()
    context = multiprocessing.get_context("forkserver")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=said, args=(sending,))
    process.start()
    print(folder, receiving.recv(), os.environ["TMPDIR"], sep="\\n")
    process.join()
"""


def started(tmp_path: Path, folder: str, where: Path | None = None) -> list[str]:
    """The temporary folder as this process, a process of its fork server and a program that is started have it."""
    script = tmp_path / "starts.py"
    script.write_text(STARTS)
    environment = {**os.environ, "TMPDIR": folder, "PYTHONPATH": str(Path(temporary.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, cwd=where or tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("length", [76, 120, 255, 1500, 3400])
def test_a_long_temporary_folder_is_used(tmp_path: Path, length: int) -> None:
    """Up to what a path may have; the fork server's socket lies elsewhere."""
    folder = tmp_path
    while (left := length - len(str(folder)) - 1) > 0:
        folder /= "a" * min(200, left)
    folder.mkdir(parents=True, exist_ok=True)
    assert started(tmp_path, str(folder)) == [str(folder)] * 3


@pytest.mark.parametrize("name", ["with space", "für-日本", "relative"])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    """A relative one is the same folder for every process."""
    (tmp_path / name).mkdir()
    given = name if name == "relative" else str(tmp_path / name)
    assert started(tmp_path, given) == [str(tmp_path / name)] * 3


@pytest.mark.parametrize("folder", ["/nowhere/at/all", "/proc", "", "/" + "/".join(["a" * 200] * 20)])
def test_one_that_cannot_be_used_is_no_obstacle(tmp_path: Path, folder: str) -> None:
    """Python goes elsewhere, and so does everything that is started."""
    found = started(tmp_path, folder)
    assert len(set(found)) == 1
    assert Path(found[0]).is_dir()


def test_where_no_file_can_be_made_anywhere_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose file systems can only be read."""

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(
        EnvironmentMissing, match=r"^No usable temporary directory found in .*; set TMPDIR to a folder that can"
    ):
        temporary.settle()


def test_where_no_socket_can_be_made_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the fork server would raise."""
    monkeypatch.setattr(temporary, "_takes_a_socket", lambda folder: False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(EnvironmentMissing, match=r"^no socket can be made below TMPDIR \(.*\), nor below /tmp, /var/tmp and"):
        temporary.settle()
