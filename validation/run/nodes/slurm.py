"""`slurm run`: a run as a job of Slurm. Submitted, followed, cancelled on an interrupt, its results brought back. No torch."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from validation.case import interrupts, tree, writing
from validation.case.errors import EnvironmentMissing, InfrastructureError, PlumblineError, UsageError
from validation.case.plural import many
from validation.run.nodes.place import TOKEN

TEMPLATE = Path(__file__).with_name("job.sbatch")
_POLL = 0.5
_SECONDS = 60
_LATE = 20.0
"""Seconds after the job's end until what it wrote must be seen here: a network file system takes its time."""
_ENDED_BY_ITSELF = ("COMPLETED", "FAILED")


@dataclass(frozen=True)
class Job:
    """What is submitted: the words of a run, on so many nodes, and further options of sbatch.

    `folder` is a new folder that every node sees at the same path. The job works in it, and it is the user's after a failure.
    """

    words: tuple[str, ...]
    nodes: int
    more: tuple[str, ...]
    folder: Path

    @property
    def results(self) -> Path:
        """Where the job's reports lie until they are brought back."""
        return self.folder / "results"

    def text(self) -> str:
        """The file for sbatch."""
        command = [*tree.validation(), "run", *self.words, "--results", str(self.results)]
        values = {
            "NODES": str(self.nodes),
            "FOLDER": shlex.quote(str(self.folder)),
            "HERE": shlex.quote(os.getcwd()),
            "MORE": "\n".join(f"#SBATCH {option}" for option in self.more),
            "COMMAND": shlex.join(command),
        }
        return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], TEMPLATE.read_text(encoding="utf-8"))


def find() -> None:
    """Raises EnvironmentMissing if Slurm's commands are not here."""
    missing = [name for name in ("sbatch", "scancel", "scontrol") if shutil.which(name) is None]
    if missing:
        raise EnvironmentMissing(f"{', '.join(missing)}: not found; run this where Slurm's commands are, on a login node")


def new_folder(below: Path) -> Path:
    """A folder for one job. Raises UsageError."""
    try:
        below.mkdir(parents=True, exist_ok=True)
        found = Path(tempfile.mkdtemp(prefix="job-", dir=below.absolute()))
    except OSError as error:
        raise UsageError(
            f"--folder {below}: {error.strerror}; name a folder that can be written and that all nodes see"
        ) from None
    if re.search(r"\s|%", str(found)):
        shutil.rmtree(found)
        raise UsageError(f"--folder {below}: its path has a space or a %, which Slurm does not take; name another folder")
    return found


def run(job: Job, say: Callable[[str], None]) -> int:
    """Submit it and follow it; the run's exit code. Raises EnvironmentMissing, UsageError and InfrastructureError."""
    script = job.folder / "job.sbatch"
    writing.write(script, job.text())
    taken: list[str] = []
    try:
        _submit(script, taken)
        (number,) = taken
        say(f"Slurm job {number} on {many(job.nodes, 'node')}; it works in {job.folder}")
        state = _followed(number, job, say)
    except BaseException:
        for number in taken:
            _ask("scancel", number)
            say(f"Slurm job {number} was cancelled")
        raise
    return _exit_code(number, job, state)


def _submit(script: Path, taken: list[str]) -> None:
    """Add the job's number to those that Slurm has taken. An interrupt waits for sbatch, which alone knows it."""
    raised: list[BaseException] = []

    def submit() -> None:
        try:
            taken.append(_number(script))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=submit, name="sbatch", daemon=True)
    try:
        with interrupts.held():
            thread.start()
        thread.join()
    finally:
        if thread.ident is not None:
            thread.join()
    for error in raised:
        raise error


def _number(script: Path) -> str:
    """That of the job. The token is one of this job, unless the user has one."""
    variables = {**os.environ, TOKEN: os.environ.get(TOKEN) or secrets.token_hex()}
    command = ["sbatch", "--parsable", "--export=ALL", str(script)]
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=_SUBMITTED)
    except subprocess.TimeoutExpired:
        raise InfrastructureError(f"sbatch says nothing for {_SUBMITTED} s; {_ASK_AGAIN}") from None
    if done.returncode:
        raise _refused(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no word")
    return done.stdout.strip().partition(";")[0]


def _refused(said: str) -> PlumblineError:
    """What sbatch's last line means: a controller that does not answer, a machine that is not set up, or a wrong job."""
    if any(word in said for word in _SILENT):
        return InfrastructureError(f"no controller of Slurm answers: {said}; {_ASK_AGAIN}")
    if any(word in said for word in _NOT_SET_UP):
        return EnvironmentMissing(f"Slurm is not set up on this machine: {said}; run this on a login node")
    return UsageError(f"sbatch does not take the job: {said}")


_SUBMITTED = 120
"""Seconds for sbatch, which tries for up to 60 by itself."""
_ASK_AGAIN = "`scontrol ping` asks whether there is one; then try again"
_SILENT = (
    *("Unable to contact slurm controller", "Socket timed out", "Zero Bytes were transmitted", "connection failure"),
    *("backup controller in standby", "Connection refused", "Connection timed out", "temporarily unable to accept job"),
)
"""https://github.com/SchedMD/slurm/blob/slurm-22-05-8-1/src/common/slurm_errno.c"""
_NOT_SET_UP = ("uthentication error", "unge", "configuration source", "cannot stat file", "slurm.conf", "Unknown host")


def _followed(number: str, job: Job, say: Callable[[str], None]) -> str:
    """Print what node 0 prints, and what the job waits for, until it has ended; the state it ended in."""
    said = ""
    with contextlib.ExitStack() as stack:
        out: Iterator[str] | None = None
        while True:
            state, reason = _state(number)
            waiting = f"waiting: {state.lower()} ({reason})" if state in ("PENDING", "CONFIGURING") else ""
            if waiting != said:
                said = waiting
                say(waiting or "running")
            out = out or _opened(job.folder / "node-0.txt", stack)
            for line in out or ():
                sys.stdout.write(line)
            sys.stdout.flush()
            if state not in _UNFINISHED:
                return state
            time.sleep(_POLL)


_UNFINISHED = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING", "STAGE_OUT", "SIGNALING")


def _opened(path: Path, stack: contextlib.ExitStack) -> Iterator[str] | None:
    try:
        return _Lines(stack.enter_context(path.open(encoding="utf-8", errors="replace")))
    except FileNotFoundError:
        return None


class _Lines(Iterator[str]):
    """What has been added to a file since one looked; more may come."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if found := self._file.readline():
            return found
        raise StopIteration


def _state(number: str) -> tuple[str, str]:
    """The job's state and the reason for it. Raises InfrastructureError if Slurm does not answer for a while."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        said = _ask("scontrol", "--oneliner", "show", "job", number)
        state, reason = (re.search(rf"\b{name}=(\S+)", said) for name in ("JobState", "Reason"))
        if state is not None:
            return state[1], reason[1] if reason else ""
        time.sleep(_POLL)
    raise InfrastructureError(
        f"Slurm says nothing of job {number} for {_SECONDS} s; `scontrol show job {number}` asks it again"
    )


def _ask(*command: str) -> str:
    """What it prints; empty if it fails or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _exit_code(number: str, job: Job, state: str) -> int:
    """The run's, which the job leaves as its last act. Without it the job was ended from outside."""
    left, end = job.folder / "exit-code", time.monotonic() + (_LATE if state in _ENDED_BY_ITSELF else 1.0)
    while not left.exists() and time.monotonic() < end:
        time.sleep(_POLL)
    try:
        return int(left.read_text())
    except (OSError, ValueError):
        printed = job.folder / "job.txt"
        last = printed.read_text(errors="replace").strip().splitlines()[-1:] if printed.exists() else []
        said = f" ({last[0]})" if last else ""
        raise InfrastructureError(
            f"Slurm job {number} ended as {state} before the run had{said}; what it left is in {job.folder}, which every node "
            "must see at this path"
        ) from None


def bring_back(job: Job, to: Path) -> int:
    """Copy the reports, each whole or not at all, and return how many there are."""
    found = sorted(job.results.glob("*.xml"))
    to.mkdir(parents=True, exist_ok=True)
    for path in found:
        part = to / f".{path.name}.part"
        shutil.copyfile(path, part)
        part.replace(to / path.name)
    return len(found)
