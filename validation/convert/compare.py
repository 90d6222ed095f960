"""`python -m validation compare`: two checkpoints of any formats, tensor by tensor."""

from __future__ import annotations

import itertools
import multiprocessing
import shlex
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from ci import junit
from validation.case import tree, writing
from validation.case.document import number
from validation.case.errors import ExitCode, UsageError
from validation.case.failures import COVERAGE, SHAPE, WEIGHTS
from validation.case.parameters import EXPERTS, Parameter
from validation.case.plural import many
from validation.compare.difference import Difference, measure
from validation.compare.limits import EXACT
from validation.compare.measurement import Measurement, PieceReport
from validation.compare.piece import Box, whole
from validation.compare.verdict import FAIL, PASS, Verdict, judge
from validation.convert.formats import open_source
from validation.convert.source import Source
from validation.convert.work import die_with_parent
from validation.machine import machine

_ELEMENTS = 4 << 20
"""Elements that are compared at a time."""
ONE_RANK = " on rank 0"


def run(options: Namespace) -> int:
    """Compare B with A; returns 0 where every tensor is the same, else 1. Raises UsageError."""
    if options.jobs < 1:
        raise UsageError(f"--jobs {options.jobs}: give 1 or more")
    if options.results:
        writing.check_folder(Path(options.results), "--results")
    start = time.monotonic()
    config = Path(options.hf_model_path) if options.hf_model_path else None
    with (
        open_source(Path(options.a), config, mtp=not options.no_mtp) as a,
        open_source(Path(options.b), config, mtp=not options.no_mtp) as b,
    ):
        sys.stdout.write(f"===== {options.b} ({b.format}) against {options.a} ({a.format}) =====\n")
        verdicts = []
        for verdict in _verdicts(a, b, options.jobs):
            verdicts.append(verdict)
            sys.stdout.write(f"{verdict.line}\n")
    seconds = time.monotonic() - start
    failed = sum(verdict.status != PASS for verdict in verdicts)
    counted = f"{many(len(verdicts), 'tensor')}{f', {failed} fail' if failed else ''}, {seconds:.1f} s"
    sys.stdout.write(f"===== Overall result: {'FAIL' if failed else 'PASS'} ({counted}) =====\n")
    if options.results:
        _write_junit(options, verdicts, seconds)
    options.document |= {
        "seconds": round(seconds, 3),
        "checks": len(verdicts),
        "counts": dict(Counter(verdict.status for verdict in verdicts)),
        "tensors": [_said(verdict) for verdict in verdicts if verdict.status != PASS],
    }
    return int(ExitCode.FAIL if failed else ExitCode.PASS)


def _verdicts(a: Source, b: Source, jobs: int) -> Iterator[Verdict]:
    """One for each parameter of either, in data-flow order."""
    names = list(dict.fromkeys([*a.parameters, *b.parameters]))
    for source in (a, b):
        source.close()
    if jobs == 1:
        _sources[:] = [a, b]
        yield from map(_verdict, names)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(jobs, len(names)), context, _start, (a, b)) as pool:
        yield from pool.map(_verdict, names)


_sources: list[Source] = []


def _start(a: Source, b: Source) -> None:
    die_with_parent()
    torch.set_num_threads(1)
    _sources[:] = [a, b]


def _verdict(name: str) -> Verdict:
    a, b = _sources
    left, right = a.parameters.get(name), b.parameters.get(name)
    if left is None or right is None:
        there = b if left is None else a
        return Verdict(FAIL, there.parameters[name].title, reasons=(f"only {there.path} has it",), failure=COVERAGE)
    if left.shape != right.shape:
        shapes = f"{b.path} has shape {right.shape} and {a.path} {left.shape}"
        return Verdict(FAIL, left.title, reasons=(shapes,), failure=SHAPE)
    differences = (measure(b.read(name, box), a.read(name, box), box) for box in _boxes(left))
    found = PieceReport(0, whole(left.shape), reduce(Difference.merged, differences), digest="")
    for source in _sources:
        source.close()  # what was read of its files counts as memory until then
    verdict = judge(Measurement(name, left.shape, (found,)), left.title, EXACT)
    kinds = [str(source.dtype(name)).removeprefix("torch.") for source in (b, a)]
    numbers = verdict.numbers if kinds[0] == kinds[1] else f"{verdict.numbers}, stored as {kinds[0]} and {kinds[1]}"
    reasons = tuple(reason.removesuffix(ONE_RANK) for reason in verdict.reasons)
    return replace(verdict, numbers=numbers, reasons=reasons, failure=WEIGHTS if verdict.status == FAIL else verdict.failure)


def _boxes(parameter: Parameter) -> Iterator[Box]:
    """The parameter in parts of some rows each, experts one by one."""
    axis = 1 if EXPERTS in parameter.name else 0
    width = max(1, parameter.shape[-1]) if len(parameter.shape) > axis + 1 else 1
    rows = parameter.shape[axis]
    step = max(1, _ELEMENTS // width)
    cuts = [(start, min(start + step, rows)) for start in range(0, rows, step)]
    experts = [((expert, expert + 1),) for expert in range(parameter.shape[0])] if axis else [()]
    for expert, cut in itertools.product(experts, cuts):
        yield (*expert, cut, *whole(parameter.shape[axis + 1 :]))


def _said(verdict: Verdict) -> dict[str, Any]:
    """A tensor as `--format json` has it (docs/json.md)."""
    numbers = {"max_diff": "max_diff", "avg_diff": "avg_diff", "rel_error": "relative_error"}
    found = {theirs: number(verdict.properties[ours]) for ours, theirs in numbers.items() if ours in verdict.properties}
    return {"title": verdict.title, "status": verdict.status, **found, "message": verdict.line}


def _write_junit(options: Namespace, verdicts: list[Verdict], seconds: float) -> None:
    checks = tuple(
        junit.Check(
            component="compare",
            name=verdict.title,
            status=verdict.status,
            message="" if verdict.status == PASS else verdict.line,
            details=verdict.line,
            properties=verdict.properties,
            failure=verdict.failure,
        )
        for verdict in verdicts
    )
    command = shlex.join([*tree.VALIDATION.split(), "compare", options.a, options.b])
    name = f"compare-{Path(options.a).resolve().name}-{Path(options.b).resolve().name}"
    path = Path(options.results) / f"{name}.xml"
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
    junit.write(path, junit.Suite(name, checks, {"command": command, **machine()}, seconds, stamp))
    sys.stdout.write(f"JUnit: {path}\n")
