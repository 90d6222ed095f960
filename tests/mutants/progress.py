"""How far mutmut has come. A row of modules takes minutes, and a log shows no line that mutmut draws again and again."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

EVERY = 60.0
"""Seconds between two lines."""
NOT_RUN = 255
"""The exit code if pytest could not begin: a test may have another name in each process. mutmut calls that a timeout."""
_UNNOTICED = (0, 5, 33)
"""The tests passed, pytest found none of them, or mutmut knows none that reach the function."""


@dataclass(frozen=True)
class Progress:
    """Mutants that were tried, mutants in all, and those of the tried ones that no test noticed."""

    tried: int
    mutants: int
    unnoticed: int

    def __str__(self) -> str:
        return f"{self.tried} of {self.mutants} mutants tried, {self.unnoticed} unnoticed (equivalent ones included)"


def exit_codes(folder: Path) -> dict[str, int | None]:
    """The exit code of the tests for each mutant by its name; None if it was not tried yet.

    Raises ValueError if mutmut is about to write one of its files.
    """
    codes: dict[str, int | None] = {}
    for path in (folder / "mutants").rglob("*.py.meta"):
        codes |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return codes


def progress(folder: Path) -> Progress | None:
    """How far mutmut has come in its copy; None while it makes the mutants or writes down a result."""
    try:
        codes = list(exit_codes(folder).values())
    except (ValueError, OSError):
        return None
    tried = sum(code is not None for code in codes)
    return Progress(tried, len(codes), sum(code in _UNNOTICED for code in codes)) if codes else None


@contextmanager
def told(folder: Path, every: float = EVERY) -> Iterator[None]:
    """Print a line every so many seconds, until the block ends."""
    ended = threading.Event()
    teller = threading.Thread(target=_tell, args=(folder, every, ended), daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def _tell(folder: Path, every: float, ended: threading.Event) -> None:
    while not ended.wait(every):
        if found := progress(folder):
            sys.stdout.write(f"{found}\n")
            sys.stdout.flush()
