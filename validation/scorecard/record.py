"""What a run of the catalogue has found so far, in a file that a later run goes on from."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from validation.case import writing
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.scorecard.judge import BROKEN, Clean, Outcome
from validation.scorecard.measured import Measured, load, saved
from validation.scorecard.rows import joined, same
from validation.scorecard.trial import Trial


class Record:
    """The rows that a file holds and those of this run, written to the file with each new one; without a path nowhere.

    `machine` says what runs. Raises UsageError if the file is no record.
    """

    def __init__(self, path: Path | None, machine: str) -> None:
        self._path, self._start = path, time.monotonic()
        self._before = _read(path) if path is not None and path.exists() else Measured(machine, 0, (), ())
        self._machine = machine

    @property
    def kept(self) -> Measured:
        """The rows that decide something; runs that broke and cases that fail by themselves are run again."""
        outcomes = tuple(one for one in self._before.outcomes if one.status != BROKEN)
        clean = tuple(one for one in self._before.clean if not (one.failing or one.says))
        return replace(self._before, outcomes=outcomes, clean=clean)

    @property
    def machine(self) -> str:
        """What its rows were measured on, and those of this run are."""
        return self._before.machine

    def left(self, tried: Sequence[Trial]) -> list[Trial]:
        """Those of which no row is kept. Raises UsageError if there are some and this machine is not that of the rows."""
        there = {(one.fault, one.layout, one.bug) for one in self.kept.outcomes}
        found = [trial for trial in tried if (trial.fault.id, trial.layout, trial.bug) not in there]
        if found and self._before.outcomes:
            same(self._before.machine, self._machine)
        return found

    def add(self, found: Clean | Outcome) -> None:
        """Take in a row."""
        if self._path is None:
            return
        new = (
            Measured(self._machine, 0, (found,), ()) if isinstance(found, Outcome) else Measured(self._machine, 0, (), (found,))
        )
        now, self._start = time.monotonic() - self._start, time.monotonic()
        rows = joined(self._before, new)
        self._before = replace(rows, seconds=rows.seconds + now)
        writing.write(self._path, saved(self._before))


def _read(path: Path) -> Measured:
    try:
        return load(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--record {path}: no record of this command ({error}); name another file, or remove it") from error


def described(facts: Mapping[str, str], on_cpu: bool) -> str:
    """What ran: versions, the cores, and of a case on GPUs the cards."""
    core = f"megatron-core {facts['megatron-core']} and transformers {facts['transformers']}"
    if on_cpu:
        return f"{many(os.cpu_count() or 1, 'CPU core')} with {core}"
    card = f"{facts['gpu']} (driver {facts['driver']}) and {many(os.cpu_count() or 1, 'CPU core')}"
    return f"{card} with torch {facts['torch']}, Transformer Engine {facts['transformer-engine']}, {core}"
