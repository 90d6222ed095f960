"""Runs commands of `python -m validation` one after the other in one process, so that they share one fork server.

Importing torch, transformers and megatron-core takes most of a command's time, and a process of the tests asks for many.
Each line of standard input is a request: words, environment, and the files for what the command prints. Standard output
gets a line with the exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import IO, Any

ROOT = Path(__file__).parents[2]
_SECONDS = 1800.0
"""Far more than a command of the tests takes, for machines with much else to do."""


def run(commands: list[list[str]], out: Path) -> list[int]:
    """The exit codes of commands in this process; `out/N.txt` gets what the Nth prints."""
    _keep_what_imports_for_long()
    return [_run(words, out / f"{number}.txt", out / f"{number}.txt") for number, words in enumerate(commands)]


def _run(words: list[str], stdout: Path, stderr: Path) -> int:
    """The exit code that Python would end with."""
    from validation.cli import main

    with _redirected(1, stdout), _redirected(2, stderr):
        try:
            return main(words)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            traceback.print_exc()
            return 1


@contextlib.contextmanager
def _redirected(number: int, file: Path) -> Iterator[None]:
    """Within it the descriptor, and so what this process and those that it starts print, is the file."""
    stream = (sys.stdout, sys.stderr)[number - 1]
    stream.flush()
    before, opened = os.dup(number), os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.dup2(opened, number)
        os.close(opened)
        yield
    finally:
        stream.flush()
        os.dup2(before, number)
        os.close(before)


def _keep_what_imports_for_long() -> None:
    """The process that computes references is the same for all commands (tests.checks.kept)."""
    from tests.checks.kept import KeptProcess
    from validation.run import references

    kept = references.REFERENCES = KeptProcess()  # before anything takes it from there
    atexit.register(kept.end)


def _serve(answers: IO[str]) -> None:
    """Answer requests until there are no more."""
    _keep_what_imports_for_long()
    gc.set_threshold(50_000, 20, 20)  # as validation.__main__ has it
    for line in sys.stdin:
        request = json.loads(line)
        os.environ.clear()
        os.environ.update(request["environment"])
        answers.write(f"{_run(request['words'], Path(request['stdout']), Path(request['stderr']))}\n")
        answers.flush()


def end_with_parent() -> None:
    """End this process, and so what it has started, soon after the one that started it has, however that was killed.

    A run of pytest that is aborted closes the pipe of requests, which nobody reads while a command runs.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    """A thread: the signal of the kernel for it comes when the thread of the parent ends that started this process."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)  # a command clears up
    os.kill(os.getpid(), signal.SIGKILL)


class Process:
    """A process that runs commands: started with the first, ended with this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.close)

    def run(self, words: Sequence[str], cache: Path, timeout: float = _SECONDS) -> subprocess.CompletedProcess[str]:
        """What `python -m validation WORDS` prints and ends with, in the environment of this moment."""
        with tempfile.TemporaryDirectory() as folder:
            stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
            code = self.ask(words, cache, stdout, stderr, timeout)
            return subprocess.CompletedProcess(list(words), code, stdout.read_text(), stderr.read_text())

    def ask(self, words: Sequence[str], cache: Path, stdout: Path, stderr: Path, timeout: float = _SECONDS) -> int:
        """The exit code of a command that prints into these files. Raises TimeoutError."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        environment = {**os.environ, "PLUMBLINE_CACHE": str(cache)}
        request: dict[str, Any] = {"words": list(words), "environment": environment}
        request |= {"stdout": str(stdout), "stderr": str(stderr)}
        process.stdin.write(f"{json.dumps(request)}\n")
        process.stdin.flush()
        with DefaultSelector() as selector:
            selector.register(process.stdout, EVENT_READ)
            if not selector.select(timeout):
                self._kill(process)
                raise TimeoutError(f"{words} did not end within {timeout:g} s: {stdout.read_text()}")
        return int(process.stdout.readline())

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.checks.commands"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self._process

    def _kill(self, process: subprocess.Popen[str]) -> None:
        """The next command gets another process."""
        self._process = None
        process.kill()
        process.communicate()

    def close(self) -> None:
        """End it; what it has started ends with it."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


WARM = Process()
"""The one process of all tests that run in this one."""


if __name__ == "__main__":
    end_with_parent()
    if len(sys.argv) > 1:  # all commands at once, in this environment, and what the Nth prints in `N.txt` of a folder
        sys.stdout.write(json.dumps(run(json.load(sys.stdin), Path(sys.argv[1]))))
    else:
        _serve(os.fdopen(os.dup(1), "w"))
