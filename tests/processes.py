"""Processes that tests expect to be gone."""

from __future__ import annotations

import time
from pathlib import Path

_SECONDS = 60.0


def still_there(*pids: int) -> list[int]:
    """Those of these processes that a minute does not end; one that has ended and is not yet waited for has gone."""
    end = time.monotonic() + _SECONDS
    while (found := [pid for pid in pids if _lives(pid)]) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0] != "Z"
    except OSError:
        return False
