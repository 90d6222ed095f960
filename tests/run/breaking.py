"""Ranks that end in every way in which ranks end. Started by name in processes of their own; they need no megatron-core."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from validation.run.report import RankReport

FOLDER = "FOLDER_OF_A_RANK_THAT_HANGS"


def sleep_forever() -> None:
    """What a rank does that waits for another which never comes. It leaves word that it does."""
    Path(os.environ[FOLDER], f"hangs-{os.environ['RANK']}").touch()
    while True:
        time.sleep(60)


class Clock:
    """The time for a watch over ranks. When all of them hang, in these folders by their number, it is `late` seconds on."""

    def __init__(self, late: float, *folders: Path) -> None:
        self._late, self._files = late, [folder / f"hangs-{rank}" for rank, folder in enumerate(folders)]

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic() + (self._late if all(file.exists() for file in self._files) else 0.0)


def _finishes() -> None:
    """Nothing goes wrong."""


def _raises() -> None:
    raise ValueError("the second rank does not like this")


def _is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _crashes() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _exits() -> None:
    os._exit(7)


def _leaves_without_a_word() -> None:
    os._exit(0)


def _is_interrupted() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # an interrupted test's own fork server may ignore it
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)


def out_of_memory(*given: object) -> None:
    """What torch raises on a GPU; takes what a layer spec is given, so that it can stand for one."""
    import torch

    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.50 GiB is free.\n"
        "See documentation for Memory Management"
    )


ENDS: dict[str, Callable[[], None]] = {
    "finishes": _finishes,
    "raises": _raises,
    "killed": _is_killed,
    "crashes": _crashes,
    "exits": _exits,
    "leaves": _leaves_without_a_word,
    "leaves by sys.exit": sys.exit,
    "is interrupted": _is_interrupted,
    "hangs": sleep_forever,
    "out of memory": out_of_memory,
}


def rank(folder: str, end: str) -> None:
    """A rank as validation.run.worker has it: rank 1 ends as `end` says once rank 0 is there, which waits for it in vain."""
    os.environ[FOLDER] = folder
    report = RankReport(Path(folder), int(os.environ["RANK"]))
    with report.last_words():
        report.progress("start of the work")
        if report.rank == 1:
            report.progress("the hard part")
            while not (Path(folder) / "rank-0.pid").exists():
                time.sleep(0.01)
            ENDS[end]()
        elif end != "finishes":
            report.progress("waiting for rank 1")
            sleep_forever()
        report.write({"rank": report.rank, "pid": os.getpid()})


def ends_alone(folder: str, end: str) -> None:
    """The only rank of a run."""
    with RankReport(Path(folder), 0).last_words():
        ENDS[end]()


def alone(folder: str) -> None:
    """A run of one rank that ends well. It goes on behind each step when a file of that name is there."""
    report = RankReport(Path(folder), 0)
    with report.last_words():
        for step in ("first", "second"):
            report.progress(step)
            while not report.shared(step).exists():
                time.sleep(0.01)
        report.write({"done": True})
