"""The last guard of a capture: a Python that would train and that no stand-in can reach is ended before it has imported torch.

Such are `env -i /opt/bin/python train.py`, and `python -I` by an absolute path: neither PATH nor PYTHONPATH reaches them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from validation.recipe.programs import record

_PROCESSES = Path("/proc")
_EVERY = 0.01
"""Seconds between two looks. Importing torch takes a hundred times as long."""
_SESSION = 3
"""Where the session stands in /proc/PID/stat, counted from the state of the process."""
_SETS_APART = frozenset("IES")
"""Options of Python that keep it from PYTHONPATH or from sitecustomize."""


class Watch(threading.Thread):
    """Looks at the processes of one session until `stop`; `found` are those that it has ended, each with its command line."""

    def __init__(self, session: int, folder: Path) -> None:
        super().__init__(daemon=True)
        self.found: list[tuple[int, tuple[str, ...]]] = []
        self._session, self._folder = session, str(folder)
        self._ended = threading.Event()
        self._others: set[str] = set()

    def run(self) -> None:
        """Look again and again."""
        while not self._ended.wait(_EVERY):
            for pid in self._of_session():
                self._look(pid)

    def stop(self) -> None:
        """Look no more; returns when the last look is over."""
        self._ended.set()
        self.join()

    def _of_session(self) -> Iterator[str]:
        pids = {name for name in os.listdir(_PROCESSES) if name.isdecimal()}
        self._others &= pids
        for pid in pids - self._others:
            if _session(pid) == self._session:
                yield pid
            else:
                self._others.add(pid)

    def _look(self, pid: str) -> None:
        words = _read(pid, "cmdline")
        if not words or not record.PYTHON.fullmatch(os.path.basename(words[0])) or any(self._folder in word for word in words):
            return
        said = record.trained_by(words)
        # A process that ends between the two reads has no environment any more.
        if said is None or self._is_reached(pid, words) or _read(pid, "cmdline") != words:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.kill(int(pid), signal.SIGKILL)
            self.found.append((int(pid), tuple(said)))
            self._others.add(pid)

    def _is_reached(self, pid: str, words: list[str]) -> bool:
        """Whether the sitecustomize of the capture is read as this Python starts."""
        options = [word for word in words[1 : words.index(record.trained_script(words))] if not word.startswith("--")]
        apart = any(_SETS_APART & set(word[1:]) for word in options if word.startswith("-"))
        return not apart and any(word.startswith("PYTHONPATH=") and self._folder in word for word in _read(pid, "environ"))


def _session(pid: str) -> int:
    """The session of a process; -1 if it has gone."""
    try:
        text = (_PROCESSES / pid / "stat").read_text()
    except OSError:
        return -1
    return int(text.rpartition(")")[2].split()[_SESSION])


def _read(pid: str, name: str) -> list[str]:
    try:
        data = (_PROCESSES / pid / name).read_bytes()
    except OSError:
        return []
    return [os.fsdecode(word) for word in data.split(b"\0")[:-1]]
