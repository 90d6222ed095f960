"""A command that the process of all tests runs prints and ends as one that has a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

import pytest

from tests.checks.conftest import ROOT, command, warm
from tests.checks.kept import KeptProcess
from validation.run.options import parsed


@pytest.mark.parametrize("words", [["run", "--help"], ["run", "--no-such-option"], ["run", "--tp", "3"]], ids=" ".join)
def test_both_print_and_end_alike(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output and error apart, in the environment of the test."""
    monkeypatch.setenv("COLUMNS", "60")
    words = [*words, "--results", str(tmp_path / "results")]
    own, shared = command(words, tmp_path), warm(words, tmp_path)
    assert (shared.returncode, shared.stdout, shared.stderr) == (own.returncode, own.stdout, own.stderr)
    assert own.stdout + own.stderr


PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-m", "tests.checks.commands"], stdin=int(sys.argv[1]))
sys.stdin.read()
"""


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Killed, too, and while it is at work: here nobody closes the pipe of its requests."""
    requests, write = os.pipe()
    given = [sys.executable, "-c", PARENT, str(requests)]
    request = {"words": ["--version"], "environment": dict(os.environ)}
    files = {"stdout": str(tmp_path / "out"), "stderr": str(tmp_path / "err")}
    with (
        os.fdopen(write, "w") as asked,
        subprocess.Popen(given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[requests], cwd=ROOT) as parent,
        DefaultSelector() as selector,
    ):
        os.close(requests)
        assert parent.stdout is not None
        asked.write(f"{json.dumps(request | files)}\n")
        asked.flush()
        assert parent.stdout.readline() == b"0\n"
        parent.kill()
        selector.register(parent.stdout, EVENT_READ)
        assert selector.select(60), "it is still there"
        assert parent.stdout.read() == b""


def test_what_computes_references_outlives_the_thread_that_asks(tmp_path: Path) -> None:
    """A command asks in a thread of its own. With the first reference the process has the kernel end it with its parent."""
    kept, case = KeptProcess(), parsed(["--layouts", "single", "--set", "num_layers=1", "--steps", "0"]).cases[0]
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    try:
        with ThreadPoolExecutor(max_workers=1) as of_a_command:
            of_a_command.submit(kept.compute, case, tmp_path / "home", folders[0], 600.0, print).result()
        first = kept.warm_up()
        with pytest.raises(subprocess.TimeoutExpired):
            first.wait(0.5)
        kept.compute(case, tmp_path / "home", folders[1], 600.0, print)
        assert kept.warm_up() is first
    finally:
        kept.end()
