"""The process that computes references, one after the other: it imports transformers once, while the fork server imports."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import IO

from validation.case.case import Case
from validation.case.errors import ExitCode
from validation.case.parameters import threads
from validation.machine import cores
from validation.reference import store
from validation.run import diagnose, forked, launch
from validation.run.launch import Broken, RunBroke
from validation.run.report import STAYS, RankReport
from validation.run.watch import Watch, watched

_PYTHON_RAISED = 1
"""Python's exit status for an exception that nobody catches: here of an import, for later ones are caught."""
_POLL = 0.01
"""Seconds between two looks at whether a reference is done."""
_OF_CUDA = "CUDA error"
"""In what torch says of every error that a process's context on a GPU does not survive."""


class Begun:
    """A reference that is computed before anybody asks for it, by `work` in a thread of a pool. It tells what it is doing."""

    def __init__(self, work: Callable[[Callable[[str], None]], None], pool: Executor) -> None:
        self._listening: Callable[[str], None] = lambda step: None
        self._thread: int | None = None
        self._done = pool.submit(self._run, work)

    def _run(self, work: Callable[[Callable[[str], None]], None]) -> None:
        self._thread = threading.get_ident()
        work(lambda step: self._listening(step))

    def wait(self, progress: Callable[[str], None]) -> None:
        """Until it is there; `progress` is told what it does from now on. Raises RunBroke and OSError."""
        self._listening = progress
        self._done.result()

    def has_ended(self, seconds: float) -> bool:
        """Whether it has, within so many seconds, in whatever way. Its own thread does not wait."""
        return self._thread == threading.get_ident() or not wait([self._done], seconds).not_done


class ReferenceProcess:
    """Computes what it is asked for, a line of JSON on its standard input each, until that is closed."""

    _module = "validation.run.refer"
    _forks = True
    """Whether that module forks the fork server if it is asked to."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._has_forked = False
        self._said: IO[str] | None = None
        self._one_at_a_time = threading.Lock()
        self._begun: dict[tuple[str, Path], Begun] = {}
        # It stays: a process that a thread has started is ended by the kernel when that thread is.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="begun")

    def warm_up(self) -> subprocess.Popen[str]:
        """Have it import now what it will need; starts it anew where it has ended."""
        if self._process is None or self._process.poll() is not None:
            # Not before: where temporary files lie is known when a process is wanted (validation.run.temporary).
            self._said = self._said or tempfile.TemporaryFile("w+")  # noqa: SIM115 - the process writes to it
            self._process, self._has_forked = self._started(), False
        return self._process

    def warm_up_with_ranks(self) -> bool:
        """The same, with the fork server of the ranks as a fork of it; False if it cannot be one, or runs without one."""
        with self._one_at_a_time:
            if self._process is not None and self._process.poll() is None:
                return self._has_forked
            if not (self._forks and forked.possible()):
                return False
            self._said = self._said or tempfile.TemporaryFile("w+")  # noqa: SIM115 - the process writes to it
            with forked.offered() as (word, files):
                flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] # as multiprocessing starts it
                self._process = self._started(word, flags=flags, files=files)
            self._has_forked = True
            return True

    def _started(self, *words: str, flags: Sequence[str] = (), files: Sequence[int] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *flags, "-m", self._module, *words],
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            pass_fds=files,
        )
        atexit.register(process.kill)
        return process

    def compute(
        self,
        case: Case,
        home: Path,
        folder: Path,
        timeout: float,
        progress: Callable[[str], None],
        on_host: bool = False,
    ) -> None:
        """The reference of `case`, into the store below `home`; `folder` gets what a rank leaves behind. Raises RunBroke.

        With `on_host` its truth does not stay on a GPU.
        """
        asked = {
            "case": case.to_json(),
            "folder": str(folder),
            "home": str(home.resolve()),
            "threads": threads(case.model, cores()),
            "on_host": on_host,
        }
        with self._one_at_a_time, watched(folder, 1, timeout, progress) as watch:
            process = self.warm_up()
            with contextlib.suppress(OSError):  # it has ended, which is seen next
                _say(process, json.dumps(asked))
            left = [folder / "rank-0.json", folder / "rank-0.error"]
            while process.poll() is None and not any(path.exists() for path in left):
                if watch.killed:
                    process.kill()  # it may hang where it has not yet said who it is
                time.sleep(_POLL)
            if not left[0].exists():
                broken = self._post_mortem(folder, home, timeout, watch, process.poll() or 0)
                if _OF_CUDA in broken.sentence:
                    self.close()  # its use of the GPU is over for good: the next reference wants a process of its own
                elif broken.exit_code in (ExitCode.FAIL, ExitCode.INFRASTRUCTURE):
                    # What an exception has left in torch, as a mode that a router's hook has entered, would be in the next one.
                    self._kill()
                raise RunBroke(broken)

    def begin(self, case: Case, home: Path, timeout: float) -> None:
        """Compute the reference of `case` before anybody asks for it (`had`); it is ended with the command if nobody does."""
        if not self._begun:
            atexit.register(ReferenceProcess.close, self)
        self._begun[store.key(case), home] = Begun(lambda progress: self._alone(case, home, timeout, progress), self._pool)

    def had(self, case: Case, home: Path, timeout: float, progress: Callable[[str], None]) -> None:
        """Compute the reference of `case`, or wait for it if it was begun. Raises RunBroke and OSError."""
        begun = self._begun.pop((store.key(case), home), None)
        if begun is not None:
            begun.wait(progress)
        else:
            self._alone(case, home, timeout, progress)

    def _alone(self, case: Case, home: Path, timeout: float, progress: Callable[[str], None]) -> None:
        with launch.run_folder() as folder:
            try:
                return self.compute(case, home, folder, timeout, progress)
            except RunBroke as error:
                # Memory that was free when it was looked at may be another process's a second later.
                if not (RankReport(folder, 0).path(STAYS).exists() and diagnose.is_out_of_memory(error.broken)):
                    raise
        with launch.run_folder() as folder:
            return self.compute(case, home, folder, timeout, progress, on_host=True)

    def rest(self) -> None:
        """End it if it computes nothing: what it holds of a GPU is then free. The next reference has it started anew."""
        if self._one_at_a_time.acquire(blocking=False):
            try:
                self._kill()
            finally:
                self._one_at_a_time.release()

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._kill()
        while self._begun:
            begun = self._begun.popitem()[1]
            while not begun.has_ended(_POLL):
                self._kill()  # it may only now have been started

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _post_mortem(self, folder: Path, home: Path, timeout: float, watch: Watch, code: int) -> Broken:
        broken = _told_of_it(launch.post_mortem(folder, 1, timeout, watch, [(0, code)], written=[home]))
        if broken.stacks or self._said is None:
            return broken
        # It ended without a word in the folder: what it printed (an import that failed) is all there is.
        self._said.seek(0)
        said = self._said.read()
        if code != _PYTHON_RAISED or not said.strip() or broken.exit_code == ExitCode.ENVIRONMENT:
            return Broken(broken.rank, broken.sentence, said, broken.exit_code)
        sentence = (
            f"the HuggingFace side cannot be imported ({said.splitlines()[-1].strip()}); install what that names again, or "
            "uninstall it if transformers can do without"
        )
        return Broken(broken.rank, sentence, said, ExitCode.ENVIRONMENT)


def _told_of_it(broken: Broken) -> Broken:
    """The same of this process, which leaves behind what a rank does: it is no rank to whoever reads of it."""
    sentence = re.sub(r"^rank 0 (?=raised |ended |was killed )", "the process that computes the reference ", broken.sentence)
    sentence = re.sub(r"^the ranks (did not finish .*?\()rank 0 ", r"the reference \1", sentence)
    return replace(broken, sentence=sentence, stacks=broken.stacks.replace("--- rank 0 ", "--- reference "))


def _say(process: subprocess.Popen[str], line: str) -> None:
    if process.stdin is not None:
        process.stdin.write(line + "\n")
        process.stdin.flush()


REFERENCES = ReferenceProcess()
"""The one of this process."""
