"""How much disk a case takes, from the model's shapes, and whether a folder has it.

A stored reference, in bytes; W are the elements of the weights, R those of the recorded probes:

    weights     4 * W               where a preset makes them
    gradients   8 * W
    probes      2 * 8 * R           forward and backward
    steps       3 * 8 * W each      values and both moments

Layer by layer experts have no gradients here, and bf16 and fp16 take 4 bytes an element in place of 8. In lockstep nothing of
this is stored (`of_borders`).

Found within 1 %: tiny in fp64 has 19.3 MB without steps and 39.2 MB with two.
"""

from __future__ import annotations

import math
import os
import resource
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from validation.case.case import Case
from validation.case.memory import BYTES
from validation.case.parameters import EXPERTS, parameters
from validation.case.probes import probes
from validation.case.steps import stepped
from validation.case.writing import there

MIB = 2**20
_A_RANK = MIB // 4
"""Bytes that a rank leaves in the temporary folder: its report, its progress, what it prints."""
_A_WORD = 64 * 1024
"""Bytes that a rank needs to say how it ended."""
_A_WORDS_FILES = 8
_FLOOR_RUNS = 5
"""Runs of a floor (validation.reference.floor.VARIANTS)."""
_A_CHECK = 1024
"""Bytes of a check in a JUnit file."""


@dataclass(frozen=True)
class Need:
    """Bytes that go into a folder, `largest` of them into one file; `name` is who asks, `remedy` what would work."""

    folder: Path
    bytes: int
    largest: int
    name: str
    remedy: str


def references(cases: Sequence[Case], home: Path) -> Need:
    """Room for their references in the cache."""
    sizes = [of_reference(case) for case in cases]
    remedy = "make room there, or name another folder with PLUMBLINE_CACHE"
    whole, largest = sum(size for size, _ in sizes), max(file for _, file in sizes)
    return Need(home, whole, largest, "the cache of references", remedy)


def runs(cases: Sequence[Case], at_once: int = 1) -> Need:
    """Room for what ranks leave while so many of the cases run."""
    largest = max(map(of_run, cases))
    remedy = "make room there, or name another folder with TMPDIR"
    return Need(Path(tempfile.gettempdir()), at_once * largest, largest, "what ranks leave while they run", remedy)


def reports(cases: Sequence[Case], folder: Path) -> Need:
    """Room for their JUnit files."""
    sizes = [of_results(case) for case in cases]
    remedy = "make room there, or name another folder with --results"
    return Need(folder, sum(sizes), max(sizes), "the report", remedy)


def of_reference(case: Case) -> tuple[int, int]:
    """Bytes of a stored reference, and of its largest file; in lockstep, of what passes the layers' borders in its place."""
    if case.in_lockstep:
        return of_borders(case)
    stream = case.training.stream
    kept = [one for one in parameters(case.model).values() if not (stream and EXPERTS in one.name)]
    weights = sum(math.prod(parameter.shape) for parameter in kept)
    records = sum(math.prod(probe.shape) for probe in probes(case.model, case.batch_size, case.seq_length).values())
    lower = stream and case.precision in ("bf16", "fp16")
    size = BYTES["fp32" if lower else "fp64"]
    made = case.hf_model_path is None and not stream
    files = [BYTES["fp32"] * weights * made, size * weights, size * records, size * records]
    files.append(3 * size * weights * case.training.steps)
    return sum(files), max(files)


def of_borders(case: Case) -> tuple[int, int]:
    """Bytes of what a case in lockstep keeps: hidden states of every run between layers, and one gradient."""
    truth, size = BYTES["fp64" if case.precision in ("fp64", "fp32") else "fp32"], BYTES[case.precision]
    floors = 0 if case.precision == "fp64" else _FLOOR_RUNS
    step = case.batch_size * case.seq_length * case.model.hidden_size * (truth + (floors + 1) * size)
    return step * (len(case.model.blocks) + 2) + MIB, 2 * step + MIB


def of_results(case: Case) -> int:
    """Bytes of the JUnit file of a case."""
    tensors = len(probes(case.model, case.batch_size, case.seq_length)) + len(parameters(case.model))
    return _A_CHECK * (2 * tensors + len(stepped(case)))


def of_run(case: Case) -> int:
    """Bytes of what the ranks of a case leave in the temporary folder; layer by layer, what enters each layer, too."""
    hidden = case.batch_size * case.seq_length * case.model.hidden_size * BYTES[case.precision]
    kept = hidden * (len(case.model.blocks) + 1) if case.training.stream and not case.in_lockstep else 0
    return _A_RANK * case.layout.ranks + kept


def shortage(needs: Iterable[Need]) -> str | None:
    """The sentence to say if a file system has too little room for all that goes there, or a file may not get so large."""
    wanted: dict[int, int] = {}
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    for need in needs:
        above = there(need.folder)
        if resource.RLIM_INFINITY != limit < need.largest:
            return (
                f"{need.name} needs a file of {said(need.largest)} in {need.folder} and no file may be larger than "
                f"{said(limit)} here; raise that limit (`ulimit -f unlimited`)"
            )
        disk = os.stat(above).st_dev
        wanted[disk] = wanted.get(disk, 0) + need.bytes
        if wanted[disk] > (free := _free(above)):
            others = f" ({said(wanted[disk])} with what else goes to that disk)" if wanted[disk] > need.bytes else ""
            needed = f"{need.name} needs about {said(need.bytes)} in {need.folder}{others}"
            return f"{needed}, and {said(free)} are free there; {need.remedy}"
    return None


def left(folder: Path) -> str:
    """What is free there."""
    return f"{said(_free(there(folder)))} free"


def is_full(folder: Path) -> bool:
    """Whether a rank can hardly say there how it ended."""
    return _free(there(folder)) < _A_WORD


def _free(folder: Path) -> int:
    """Bytes that this process may still write there. Where there are inodes, and hardly one is free, nothing."""
    found = os.statvfs(folder)
    if found.f_files and found.f_favail < _A_WORDS_FILES:
        return 0
    return found.f_bavail * found.f_frsize


def said(size: int) -> str:
    """Bytes as a reader counts them."""
    return f"{size / MIB:.1f} MiB" if size < 1024 * MIB else f"{size / MIB / 1024:.1f} GiB"
