"""Ranks that start while cases before theirs still run.

They load their plugin, begin to use their GPU, which takes as long as a small model's forward pass, do what a case would
first wait for (validation.candidate.rehearsal), and bring the reference there if it is known. Then they wait for their turn.
A rank runs one case, held or not: nothing that a case leaves behind can reach another one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from validation.run.report import REFERENCE, TURN
from validation.run.watch import Turn

Start = Callable[[Path, Turn, Callable[[], None]], list[dict[str, Any]]]
"""What starts ranks that leave their files in a folder, and returns what they report after their turn.

It calls what it is given last when all ranks have left their findings, while their processes end.
"""


class HeldRanks:
    """The ranks of one case before its turn."""

    def __init__(self, folder: contextlib.AbstractContextManager[Path], start: Start, threads: Executor) -> None:
        self._turn = Turn()
        self._left: Callable[[], None] = lambda: None
        self._folder: Future[Path] = Future()
        self._reports = threads.submit(self._run, folder, start)
        self._reports.add_done_callback(lambda done: self._folder.cancel())  # of no effect where there was a folder

    def _run(self, folder: contextlib.AbstractContextManager[Path], start: Start) -> list[dict[str, Any]]:
        with folder as place:
            self._folder.set_result(place)
            return start(place, self._turn, lambda: self._left())

    def tell(self, reference: Path) -> None:
        """Have them know the folder of the reference before their turn, as soon as they have a folder themselves."""

        def write(folder: Future[Path]) -> None:
            if not folder.cancelled():
                with contextlib.suppress(OSError):  # it stands in the word that gives them their turn, too
                    _leave(folder.result(), REFERENCE, reference)

        self._folder.add_done_callback(write)

    def reports(self, reference: Path, left: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
        """Give them their turn, with the folder of the reference, and return what they report. Raises RunBroke and OSError.

        `left` is called when all have left their findings, while their processes end.
        """
        self._left = left
        if not self._folder.cancelled():
            place = self._folder.result()
            with contextlib.suppress(FileNotFoundError):  # they broke before their turn, and the folder is gone
                _leave(place, TURN, reference)
        self._turn.set()
        return self._reports.result()

    def give_up(self) -> None:
        """End them, whose turn will not come: their case has no reference. Of no effect on ranks that have reported."""
        self._turn.given_up = True


def _leave(place: Path, name: str, reference: Path) -> None:
    (place / f"{name}.part").write_text(str(reference))
    (place / f"{name}.part").replace(place / name)
