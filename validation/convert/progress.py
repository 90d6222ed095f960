"""How far a conversion is: a line that is rewritten on a terminal, and one every few seconds elsewhere."""

from __future__ import annotations

import sys
import time

EVERY = 5.0
"""Seconds between two lines where there is no terminal."""
_REWRITE = 0.2


class Progress:
    """Bytes done of `total`, to standard error."""

    def __init__(self, what: str, total: int, already: int = 0) -> None:
        self._what, self._total, self._already = what, total, already
        self._start = self._last = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._shown = False

    def show(self, done: int) -> None:
        """`done` bytes were written since the start."""
        now = time.monotonic()
        if now - self._last < (_REWRITE if self._terminal else EVERY):
            return
        self._last, self._shown = now, True
        sys.stderr.write(f"\r\x1b[K{self._line(done, now)}" if self._terminal else f"{self._line(done, now)}\n")
        sys.stderr.flush()

    def _line(self, done: int, now: float) -> str:
        rate = done / (now - self._start)
        whole = self._already + done
        left = f", {_duration((self._total - whole) / rate)} left" if rate else ""
        share = 100 * whole / self._total if self._total else 100
        return f"{self._what}: {readable(whole)} of {readable(self._total)} ({share:.0f} %), {readable(rate)}/s{left}"

    def end(self) -> None:
        """Wipe the line that is rewritten."""
        if self._terminal and self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def readable(size: float) -> str:
    """`1.4 GiB`, `812.0 MiB`, `3.0 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1 << 10:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1 << 10
    return f"{size:.2f} TiB"


def _duration(seconds: float) -> str:
    """`12 s`, `3 min 05 s`, `2 h 14 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
