"""`python -m validation pairs`: run the cases of all pairs, reduce what fails, write what was measured."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from validation.cache import limit
from validation.case import tree
from validation.case.empty import refuse_empty
from validation.case.errors import ExitCode, UsageError
from validation.case.home import home
from validation.case.plural import many
from validation.machine import machine
from validation.pairwise import page
from validation.pairwise.cases import MOST_RANKS, array, case_of
from validation.pairwise.run import Bench, Outcome, findings, outcomes
from validation.recipe.pairs import Row, arrangement
from validation.run.command_line import add_cache_limit
from validation.run.options import Settings
from validation.run.prepare import prepare


def add_options(add: Callable[..., Any]) -> None:
    """Its options."""
    add("--list", action="store_true", help="list the cases and run nothing")
    add("--results", default="results/pairs", metavar="DIR", help="where the JUnit file goes (default results/pairs)")
    add("--jobs", type=int, default=2, metavar="N", help="cases that run at the same time (default 2)")
    add("--timeout", type=float, default=600.0, metavar="SECONDS", help="after which a case is killed (default 600)")
    add("--write", action="store_true", help="write what was measured into docs/pairs.md")
    add_cache_limit(add)


def run(options: argparse.Namespace, command: str) -> int:
    """Run what is asked for; returns the exit code. Raises UsageError."""
    refuse_empty(options, ("results", "cache_limit"))
    if options.jobs < 1 or not options.timeout > 0:
        raise UsageError("--jobs is 1 or more, and --timeout a number of seconds greater than 0")
    if options.write:
        tree.needs_a_checkout("--write")
    found = array()
    if options.list:
        sys.stdout.write("".join(f"{arrangement(row)}\n" for row in found.rows))
        return int(ExitCode.PASS)
    start, settings = time.monotonic(), _settings(options, found.rows, command)
    prepare(settings)
    sys.stdout.write(
        f"===== pairs: {many(found.pairs, 'pair')} of {many(len(found.factors), 'factor')} in "
        f"{many(len(found.rows), 'case')} =====\n"
    )
    bench = Bench(settings)
    try:
        seen = [_said(outcome) for outcome in outcomes(found.rows, bench)]
        smallest = findings([outcome for outcome in seen if outcome.failing], lambda row: _tried(bench.outcome(row)))
    finally:
        bench.close()
    seconds, facts = round(time.monotonic() - start), machine()
    measured = page.Measured(found, tuple(seen), tuple(smallest), seconds, _machine(facts), facts["megatron-core"])
    page.write_junit(settings.results / "pairs.xml", measured, command)
    sys.stdout.write(page.summary(measured))
    if options.write:
        page.save(measured)
    return int(ExitCode.FAIL if smallest else ExitCode.PASS)


def _settings(options: argparse.Namespace, rows: Sequence[Row], command: str) -> Settings:
    return Settings(
        cases=tuple(dict.fromkeys(map(case_of, rows))),
        results=Path(options.results),
        home=home(),
        timeout=options.timeout,
        max_ranks=MOST_RANKS,
        jobs=options.jobs,
        debug=False,
        fresh=False,
        command=command,
        cache_limit=limit.limit(options.cache_limit, home()),
    )


def _said(outcome: Outcome) -> Outcome:
    """Say what came of one row."""
    sys.stdout.write(page.line(outcome) + "\n")
    sys.stdout.flush()
    return outcome


def _tried(outcome: Outcome) -> Outcome:
    """Say what came of a part of a row that fails: each takes seconds."""
    sys.stdout.write(f"TRIED  {outcome.name}: {'fails' if outcome.failing else 'passes'}\n")
    sys.stdout.flush()
    return outcome


def _machine(facts: Mapping[str, str]) -> str:
    return (
        f"{many(os.cpu_count() or 1, 'CPU core')} with megatron-core {facts['megatron-core']} and transformers "
        f"{facts['transformers']}"
    )
