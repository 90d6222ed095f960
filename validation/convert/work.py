"""The processes that write parts. They are forked, so that the plan and the opened files are theirs at once."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from validation.case.errors import InfrastructureError
from validation.convert.parts import Part, Target
from validation.convert.progress import Progress
from validation.convert.unfinished import Unfinished, disk_errors, sync

_PR_SET_PDEATHSIG = 1
_POLL = 0.1


def write(target: Target, unfinished: Unfinished, jobs: int) -> tuple[Mapping[str, Any], int]:
    """Write every part that is not yet whole, `jobs` at a time.

    Returns what is noted of each, by name, and the largest resident memory of a process that wrote, bytes.

    Raises InfrastructureError where a process is lost. Other errors come as they were raised.
    """
    noted = {part.name: unfinished.noted(part.name) for part in target.parts}
    left = sorted((part for part in target.parts if noted[part.name] is None), key=lambda part: -part.bytes)
    total = sum(part.bytes for part in target.parts)
    progress = Progress("convert", total, total - sum(part.bytes for part in left))
    with disk_errors(unfinished.folder):
        try:
            made, largest = _all(target, unfinished, left, min(jobs, len(left)), progress)
            return {**noted, **made}, largest
        finally:
            progress.end()


def _all(target: Target, unfinished: Unfinished, left: list[Part], jobs: int, progress: Progress) -> tuple[dict[str, Any], int]:
    if jobs <= 1:
        return _alone(target, unfinished, left, progress)
    context = multiprocessing.get_context("fork")
    wrote = context.Value(ctypes.c_longlong, 0)
    made: dict[str, Any] = {}
    largest = 0
    with ProcessPoolExecutor(jobs, context, _start, (target, unfinished, wrote)) as pool:
        waiting: set[Future[tuple[str, Any, int]]] = {pool.submit(_forked, part) for part in left}
        try:
            target.meanwhile()
            while waiting:
                done, waiting = wait(waiting, timeout=_POLL, return_when=FIRST_COMPLETED)
                for name, noted, peak in (future.result() for future in done):
                    made[name], largest = noted, max(largest, peak)
                progress.show(wrote.value)
        except BrokenProcessPool as error:
            raise InfrastructureError(
                f"{unfinished.folder}: a process that wrote it was killed, perhaps for want of memory; start again to go on, "
                "with fewer --jobs"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return made, largest


def _alone(target: Target, unfinished: Unfinished, left: list[Part], progress: Progress) -> tuple[dict[str, Any], int]:
    """In this process."""
    written = 0

    def wrote(size: int) -> None:
        nonlocal written
        written += size
        progress.show(written)

    return {part.name: _write(target, unfinished, part, wrote) for part in left}, peak_memory() if left else 0


class _Worker:
    """What a forked process works with."""

    target: Target
    unfinished: Unfinished
    wrote: Any


def die_with_parent() -> None:
    """Have this process, which was forked, be killed with the one that forked it, and leave it to that to be interrupted."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:  # killed already
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _start(target: Target, unfinished: Unfinished, wrote: Any) -> None:
    die_with_parent()
    torch.set_num_threads(1)
    _Worker.target, _Worker.unfinished, _Worker.wrote = target, unfinished, wrote


def _forked(part: Part) -> tuple[str, Any, int]:
    return part.name, _write(_Worker.target, _Worker.unfinished, part, _wrote), peak_memory()


def _write(target: Target, unfinished: Unfinished, part: Part, wrote: Callable[[int], None]) -> Any:
    path = unfinished.folder / part.name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        written = target.write(part, temporary, wrote)
        sync(temporary)
        os.replace(temporary, path)
    finally:
        target.let_go()
        temporary.unlink(missing_ok=True)
    return unfinished.note(part.name, written.crc32, written.known)


def peak_memory() -> int:
    """The largest resident memory that this process has had, bytes; what it was forked from is not counted twice."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))


def _wrote(size: int) -> None:
    with _Worker.wrote.get_lock():
        _Worker.wrote.value += size
