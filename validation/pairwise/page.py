"""What is said of a run of all pairs: lines, a JUnit file, and docs/pairs.md with the numbers in docs/pairs.json."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from packaging.version import Version

from ci import junit
from validation.case import writing
from validation.case.failures import UNSOUND
from validation.case.layout import Layout
from validation.case.plural import many
from validation.pairwise.run import Finding, Outcome
from validation.recipe.factors import factors, left_out
from validation.recipe.pairs import Array, arrangement, possible

DOCS = Path(__file__).parents[2] / "docs"
DATA, PAGE = DOCS / "pairs.json", DOCS / "pairs.md"
_NAME = "pairs"


@dataclass(frozen=True)
class Measured:
    """A whole run: the array, what came of each row, the smallest parts that fail, seconds, and where it ran.

    `release` is megatron-core's.
    """

    array: Array
    outcomes: tuple[Outcome, ...]
    findings: tuple[Finding, ...]
    seconds: int
    machine: str
    release: str


def line(outcome: Outcome) -> str:
    """One row, as it is said while the run goes on."""
    known = f", {outcome.known} known" if outcome.known else ""
    if outcome.failing:
        return f"FAIL   {outcome.name}: {len(outcome.failing)} of {many(outcome.checks, 'check')}, first {outcome.failing[0]}"
    return f"PASS   {outcome.name}: {many(outcome.checks, 'check')}{known}"


def summary(measured: Measured) -> str:
    """What is said at the end."""
    failed = sum(bool(outcome.failing) for outcome in measured.outcomes)
    said = [f"FOUND  {one.name} ({_rows(len(one.rows))}): {one.line}" for one in measured.findings]
    checks = sum(outcome.checks for outcome in measured.outcomes)
    word = "FAIL" if measured.findings else "PASS"
    numbers = f"{many(len(measured.outcomes), 'case')}, {many(checks, 'check')}, {failed} failed, {measured.seconds} s"
    return "\n".join([*said, f"===== Pairs: {word} ({numbers}) =====", ""])


def _rows(count: int) -> str:
    return f"in {count} case{'' if count == 1 else 's'}"


def write_junit(path: Path, measured: Measured, command: str) -> None:
    """A testcase for each row; of one that fails, with the smallest parts that fail in it."""
    checks = tuple(_check(outcome, measured.findings) for outcome in measured.outcomes)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
    junit.write(path, junit.Suite(_NAME, checks, {"command": command}, float(measured.seconds), stamp))


def _check(outcome: Outcome, found: Iterable[Finding]) -> junit.Check:
    status = "fail" if outcome.failing else "pass"
    parts = [f"smallest that fails: {one.name}" for one in found if outcome.row in one.rows]
    details = "\n".join([line(outcome), *parts, *outcome.failing])
    return junit.Check(
        component=_NAME,
        name=f"All Checks of {outcome.name}",
        status=status,
        message=line(outcome) if outcome.failing else "",
        details=details,
        failure=UNSOUND if outcome.failing else "",
    )


# The page


def save(measured: Measured) -> None:
    """Write the numbers beside those of other releases of megatron-core, and the page."""
    before = json.loads(DATA.read_text(encoding="utf-8"))
    data = dict(sorted({**before, measured.release: numbers(measured)}.items(), key=lambda one: Version(one[0])))
    writing.write(DATA, json.dumps(data, indent=2) + "\n")
    writing.write(PAGE, text(data))


def numbers(measured: Measured) -> dict[str, Any]:
    """What the page says of one release."""
    ranks = Counter(Layout.parse(arrangement(row).partition("+")[0]).ranks for row in measured.array.rows)
    return {
        "machine": measured.machine,
        "seconds": measured.seconds,
        "factors": len(measured.array.factors),
        "combinations": possible(measured.array.factors),
        "pairs": measured.array.pairs,
        "checks": sum(outcome.checks for outcome in measured.outcomes),
        "known": sum(outcome.known for outcome in measured.outcomes),
        "ran": len(measured.outcomes),
        "failed": sum(bool(outcome.failing) for outcome in measured.outcomes),
        "ranks": {str(count): ranks[count] for count in sorted(ranks)},
        "cases": [arrangement(row) for row in measured.array.rows],
        "conflicts": [[arrangement(conflict.values), conflict.why] for conflict in measured.array.conflicts],
        "findings": [[finding.name, len(finding.rows), finding.line] for finding in measured.findings],
    }


def text(data: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/pairs.md, of the numbers of each release."""
    first = next(iter(data.values()))
    found = [
        f"- `{name}` ({_rows(count)} with megatron-core {release}): {_plain(said)}"
        for release, one in data.items()
        for name, count, said in one["findings"]
    ]
    return _PAGE.format(
        factors=first["factors"],
        combinations=f"{first['combinations']:.1e}",
        cases=len(first["cases"]),
        release=next(iter(data)),
        measured="\n".join(_measured(data)),
        factor_rows="\n".join(f"| {factor.name} | {_values(map(str, factor.values[1:]))} |" for factor in factors()),
        conflict_rows="\n".join(_conflicts(data)),
        findings="\n".join(found) or "None.",
        left_out="\n".join(f"| `{name}` | {why} |" for name, why in left_out().items()),
    )


_MEASURED: dict[str, Callable[[Mapping[str, Any]], object]] = {
    "switches and degrees": itemgetter("factors"),
    "pairs": itemgetter("pairs"),
    "cases": lambda one: f"{len(one['cases'])} ({_ranks(one['ranks'])})",
    "cases that ran": lambda one: _ran(one["ran"], len(one["cases"])),
    "cases that failed": itemgetter("failed"),
    "checks": itemgetter("checks"),
    "checks that show known upstream bugs": itemgetter("known"),
    "time": lambda one: f"{one['seconds']} s on {one['machine']}",
}


def _measured(data: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Rows of the table, with a column for each release."""
    yield f"| | {' | '.join(f'megatron-core {release}' for release in data)} |"
    yield f"|---|{'---|' * len(data)}"
    for title, said in _MEASURED.items():
        yield f"| {title} | {' | '.join(str(said(one)) for one in data.values())} |"


def _ranks(ranks: Mapping[str, int]) -> str:
    return ", ".join(f"{cases} with {many(int(count), 'rank')}" for count, cases in ranks.items())


def _conflicts(data: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Each conflict, with the releases that have it and the first one's reason."""
    reasons = {release: dict(one["conflicts"]) for release, one in data.items()}
    for name in dict.fromkeys(name for of_one in reasons.values() for name in of_one):
        having = [release for release, of_one in reasons.items() if name in of_one]
        releases = "all" if len(having) == len(data) else ", ".join(having)
        yield f"| `{name}` | {_plain(reasons[having[0]][name])} | {releases} |"


def _ran(ran: int, cases: int) -> str:
    return "all" if ran == cases else f"{ran}; the run was ended before its end"


def _values(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _plain(sentence: str) -> str:
    """A sentence in one cell of a table."""
    return " ".join(sentence.replace("|", "/").split())


_PAGE = """# Every pair of switches

A switch can be sound alone and wrong beside another one. Trying all combinations of {factors} switches and degrees would take
{combinations} cases. Most bugs need two of them. With megatron-core {release}, {cases} cases hold every pair that can go
together.

```
nox -s recipes              # choose the cases, run them, reduce what fails
nox -s recipes -- --list    # list the cases
nox -s recipes_other        # the same with the other release of megatron-core
```

Both sessions run every night. `recipes` takes the release that is installed with your Python, and `recipes_other` that of the
[other Pythons](fork.md#supported-releases). The package covertable chooses the cases. It finds every pair under
constraints. allpairspy stopped early in a trial: with 33 factors it left out 81 of 2567 pairs.

Plumbline learns the constraints from its own rules and from Megatron-Core's configuration classes. Both refuse a combination
with a sentence. If a case fails, delta debugging leaves out switches as long as it still fails. The rest is reported.

## Measured

{measured}

Checks that show known upstream bugs are judged by a second run without these bugs.

## Findings

{findings}

## Switches and degrees

The default of each stands beside these values. `copies2` doubles the data-parallel ranks that the other degrees need.

| name | values |
|---|---|
{factor_rows}

## What cannot go together

| values | reason | megatron-core |
|---|---|---|
{conflict_rows}

## Left out

These fields could be set on a CPU, and no case sets them.

| field | reason |
|---|---|
{left_out}
"""
