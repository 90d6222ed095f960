"""Watching over the ranks of this machine: progress, time, and an end to what hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

GRACE = 2.0
"""Seconds between asking a hung rank for its stacks and killing it."""
_POLL, _SOON = 0.1, 0.01
"""Seconds between two looks at how the ranks do, and at whether they have left what somebody waits for."""
UNNOTICED = 10.0
"""Seconds after which elastic, which looks every 0.02 s, will not notice any more that a rank has ended."""


class Turn(threading.Event):
    """Set when it is the turn of ranks that wait for it (validation.run.held)."""

    given_up = False
    """Whether it will never come: then the ranks are ended."""


class Watch:
    """A thread that reports progress and, when time is up, has every rank write its stacks and then kills it."""

    def __init__(
        self,
        folder: Path,
        ranks: int,
        timeout: float,
        progress: Callable[[str], None],
        first: int = 0,
        turn: Turn | None = None,
        left: Callable[[], None] | None = None,
    ) -> None:
        """`first` is the number of the first of these ranks, all of which run on this machine.

        Before their `turn` no time passes for them, and they have no progress. `left` is called once, when every rank has left
        its findings: then it does nothing more than end.
        """
        self._folder, self._ranks, self._timeout, self._progress = folder, range(first, first + ranks), timeout, progress
        self._turn, self._left = turn, left
        self._done = threading.Event()
        self._unwanted = self._expired = False
        self.timed_out = self.killed = False
        self.vanished: int | None = None
        self.gone = threading.Event()
        """Set when no rank of this machine lives any more, or is about to be killed."""

    def run(self) -> None:
        """Until `stop` is called."""
        end, last = time.monotonic() + self._timeout, ""
        while not self._ended():
            if self._turn is not None and self._turn.given_up:
                self.kill()
            if self._unwanted:
                self._signal(signal.SIGKILL)  # those, too, that had no process yet
            if self._turn is not None and not self._turn.is_set():
                end = time.monotonic() + self._timeout
            elif (step := last_step(self._folder, self._ranks[0])) != last:
                last = step
                self._progress(step)
            lost = self.vanished is None and not (self.timed_out or self._unwanted) and self._vanished() is not None
            if lost and not self._done.wait(UNNOTICED) and not self._unwanted:
                # elastic waits for what a rank returns; one that ended without returning would be waited for until time-out.
                self.vanished = self._vanished()
                self._signal(signal.SIGKILL)
                self.gone.set()
            if (time.monotonic() > end or self._expired) and not self.timed_out:
                self.timed_out = True
                self._signal(signal.SIGUSR1)
                self._done.wait(GRACE)
                self._signal(signal.SIGKILL)
                self.killed = True
                self.gone.set()

    def _ended(self) -> bool:
        """Whether the run is over, after a tenth of a second in which it was not. Tells meanwhile that findings are there."""
        end, waiting = time.monotonic() + _POLL, list(self._ranks)
        while self._left is not None and not self._done.wait(_SOON):
            while waiting and (self._folder / f"rank-{waiting[-1]}.json").exists():
                waiting.pop()
            if not waiting:
                told, self._left = self._left, None
                told()
            elif time.monotonic() >= end:
                return False
        return self._done.wait(max(0.0, end - time.monotonic()))

    def stop(self) -> None:
        """The run is over."""
        self._done.set()

    def expire(self) -> None:
        """Have the time be up now: ranks write their stacks and are killed."""
        self._expired = True

    def kill(self) -> None:
        """End the run now."""
        self._unwanted = True
        self.gone.set()
        self._signal(signal.SIGKILL)

    def _vanished(self) -> int | None:
        """A rank whose process has ended without its findings while the run goes on. Other nodes may take longer to finish."""
        for rank in self._ranks:
            if (self._folder / f"rank-{rank}.json").exists():
                continue
            with contextlib.suppress(OSError, ValueError):
                pid = int((self._folder / f"rank-{rank}.pid").read_text())
                if not Path(f"/proc/{pid}").exists():
                    return rank
        return None

    def _signal(self, number: signal.Signals) -> None:
        for rank in self._ranks:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self._folder / f"rank-{rank}.pid").read_text()), number)


@contextlib.contextmanager
def watched(
    folder: Path,
    ranks: int,
    timeout: float,
    progress: Callable[[str], None],
    first: int = 0,
    turn: Turn | None = None,
    left: Callable[[], None] | None = None,
) -> Iterator[Watch]:
    """Within it a thread watches over the ranks of a run, and `kill_all` ends them."""
    watch = Watch(folder, ranks, timeout, progress, first, turn, left)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    _running.add(watch)
    try:
        yield watch
    finally:
        _running.discard(watch)
        watch.stop()
        thread.join()


_running: set[Watch] = set()


def kill_all() -> None:
    """End every run that is under way: whoever started them has been interrupted."""
    for watch in list(_running):
        watch.kill()


def last_step(folder: Path, rank: int) -> str:
    """What a rank last said it was doing, or ''."""
    try:
        return (folder / f"rank-{rank}.progress").read_text().splitlines()[-1]
    except (OSError, IndexError):
        return ""
