"""`python -m ci drift`: is a check nearer to its limit than it was on the base branch, or gone?

The ratio of a check is its relative error over its limit. It is red where the ratio is more than FACTOR times what it was.
What lies below what is measurable counts as that: there it is rounding alone, which another order of the same sums changes by
any factor. Checks that must be equal to the bit have no ratio: they fail, or they do not.

Measured with preset tiny: in fp64 no check of the 26 layouts of `nox -s parity` is above 2.0e-4 of its limit; in fp32 and bf16
tensors are at 0.3 to 0.6 of theirs, which are twice the floor, and single numbers, as the loss is, anywhere below. With five
other seeds in single, tp2, pp2 and ep2, which is more than a base branch with the same seed differs by, the largest growth by
this rule is 0.14 in fp64, 1.65 in fp32 and, once in 3960, 2.1 in bf16 (99.9 %: 1.84).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ci.escape import plain
from ci.expected import UnreadableManifest, load
from ci.folder import Results
from ci.junit import Check, Suite, UnreadableResults
from ci.numbers import number
from ci.table import running
from validation.case import tree
from validation.case.errors import ExitCode, UsageError
from validation.case.plural import many

FACTOR = 2.0
MEASURABLE_IN_FP64 = 1e-3
MEASURABLE_ABOVE_FLOOR = 0.1
"""Of the limit: in fp64, and in the lower precisions, where the limit is a multiple of the floor."""
LIBRARIES = ("torch", "transformers", "megatron-core", "transformer-engine", "gpu")
_SHOWN = 20
Named = tuple[str, str]
"""A session and the name of one of its files."""


@dataclass(frozen=True)
class Moved:
    """A check whose ratio to its limit is not what it was."""

    where: str
    name: str
    then: float
    now: float

    @property
    def line(self) -> str:
        """In words."""
        return f"{self.where}: {self.name}: {self.now:.2g} of its limit, and {self.then:.2g} on the base branch"


@dataclass
class Drift:
    """What has changed. `grown`, `vanished` and `unreadable` are red; the rest is shown."""

    grown: list[Moved] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    appeared: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    compared: int = 0
    accepted: str = ""

    @property
    def reasons(self) -> list[str]:
        """Why it is red; nothing is where somebody has said why it is accepted."""
        return [] if self.accepted else self.found

    @property
    def found(self) -> list[str]:
        """What would be red."""
        grown = sorted(self.grown, key=lambda moved: moved.then / moved.now if moved.now == moved.now else -1.0)
        return [*self.unreadable, *(f"{name}: gone, and it is there on the base branch" for name in self.vanished)] + [
            f"{moved.line}: it has grown more than is allowed" for moved in grown
        ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--base", required=True, metavar="DIR", help=f"what {tree.CI} baseline kept of the base branch")
    parser.add_argument("--results", required=True, metavar="DIR", help="results to compare with them")
    parser.add_argument("--manifest", default=None, metavar="M", help="compare the sessions that this names (default: all)")
    add_rule(parser)


def add_rule(parser: argparse.ArgumentParser) -> None:
    """What others that look at drift can be told, too."""
    parser.add_argument("--accept", default="", metavar="WHY", help="do not be red for what has drifted, for this reason")
    parser.add_argument(
        "--factor", type=float, default=FACTOR, metavar="F", help=f"that a ratio may grow by (default {FACTOR:g})"
    )


def add_base(parser: argparse.ArgumentParser) -> None:
    """What those that tell of a run are given to tell of its drift, too."""
    parser.add_argument("--base", default=None, metavar="DIR", help="a baseline: the drift from it is shown, too")
    add_rule(parser)


def told(options: argparse.Namespace) -> Drift | None:
    """The drift by these options; None without a base, or where the manifest cannot be read, which the gate is red for."""
    try:
        wanted = _named(options.manifest)
    except UnreadableManifest:
        return None
    if options.base is None:
        return None
    return replace(drift(Path(options.base), Path(options.results), options.factor, wanted), accepted=options.accept.strip())


def main(options: argparse.Namespace) -> int:
    """0 nothing has grown or vanished, 1 something has."""
    found = drift(Path(options.base), Path(options.results), options.factor, named(options.manifest))
    found = replace(found, accepted=options.accept.strip())
    for line in found.found[: 10 * _SHOWN]:
        sys.stdout.write(f"{'accepted' if found.accepted else 'red'}: {plain(line, 500)}\n")
    for line in [*found.remarks, *(f"{name}: new" for name in found.appeared[:_SHOWN])]:
        sys.stdout.write(f"{plain(line, 500)}\n")
    counted = f"{many(found.compared, 'check')} compared, {len(found.grown)} grown, {len(found.vanished)} vanished"
    counted += f", {len(found.appeared)} new"
    sys.stdout.write(f"===== Drift: {'RED' if found.reasons else 'GREEN'} ({counted}) =====\n")
    return int(ExitCode.FAIL if found.reasons else ExitCode.PASS)


def named(manifest: str | None) -> frozenset[Named] | None:
    """The files that a manifest names; None for all. Raises UsageError."""
    try:
        return _named(manifest)
    except UnreadableManifest as error:
        raise UsageError(str(error)) from None


def _named(manifest: str | None) -> frozenset[Named] | None:
    return frozenset((suite.session, suite.file) for suite in load(Path(manifest)).suites) if manifest else None


def drift(base: Path, results: Path, factor: float, wanted: frozenset[Named] | None = None) -> Drift:
    """Results against the base's, in the sessions of the wanted files. Raises UsageError if there is nothing to compare with.

    A session that is not wanted, because this event does not run it, is not compared. If no event runs it any more, it has
    vanished, in a pull request as in the nightly run: who removes one says so there, once. Results lie as the base's do. Only
    wanted files are looked for in them: one that is there from another run has vanished like one that is not there.
    """
    if not (math.isfinite(factor) and factor >= 1):
        raise UsageError(f"--factor {factor}: give a number of 1 or more")
    before = Results(base)
    after = Results(results, before.by_session)
    sessions = None if wanted is None else {session for session, _ in wanted}
    of_base, of_now = set(before.files(sessions)), set(after.files(sessions))
    if wanted is not None:
        of_now &= {(session if after.by_session else "", file) for session, file in wanted}
    if not of_base and not any(before.files()):
        raise UsageError(f"--base {base}: no results are there; keep those of a green run with {tree.CI} baseline")
    found = Drift()
    if sessions is not None and before.by_session:
        _left_out(found, sorted({session for session, _ in before.files()} - sessions))
    for session, file in sorted(of_base | of_now):
        where = f"{session}/{file}" if session else file
        if (session, file) not in of_now:
            found.vanished.append(where)
        elif (session, file) not in of_base:
            found.appeared.append(where)
        else:
            _compare(found, where, (before, after), (session, file), factor)
    return found


def _left_out(found: Drift, sessions: list[str]) -> None:
    """Sessions of the base that this run does not have."""
    known = running()
    if known is None:
        found.remarks += [f"session {name}: not in this call, and it is there on the base branch" for name in sessions]
    else:
        found.vanished += [f"session {name}" for name in sessions if name not in known]


def _compare(found: Drift, where: str, folders: tuple[Results, Results], name: tuple[str, str], factor: float) -> None:
    try:
        then = folders[0].suite(*name)
    except UnreadableResults as error:
        raise UsageError(f"--base: {error}; keep the results of a green run with {tree.CI} baseline") from None
    try:
        now = folders[1].suite(*name)
    except UnreadableResults as error:
        found.unreadable.append(f"{where}: {str(error).removeprefix(f'{name[1]}: ')}")
        return
    found.remarks += _remarks(where, then, now)
    old, new = _by_name(then), _by_name(now)
    found.vanished += [f"{where}: {check}" for check in old if check not in new]
    found.appeared += [f"{where}: {check}" for check in new if check not in old]
    if then.properties.get("case") == now.properties.get("case"):
        ratios = [(check, ratio(old[check]), ratio(new[check])) for check in old if check in new]
        moved = [Moved(where, check, was, is_) for check, was, is_ in ratios if was is not None and is_ is not None]
        found.compared += len(moved)
        found.grown += [one for one in moved if not one.now <= factor * max(one.then, measurable(new[one.name]))]


def measurable(check: Check) -> float:
    """The ratio below which a check's error is rounding alone."""
    return MEASURABLE_ABOVE_FLOOR if "floor" in check.properties else MEASURABLE_IN_FP64


def ratio(check: Check, failed: bool = False) -> float | None:
    """Relative error over its limit; None where the limit is 0 or there is none, or where the check has not passed.

    With `failed` also of one that has failed. The numbers of a planted defect are those of the defect.
    """
    error, limit = number(check, "rel_error"), number(check, "tolerance")
    judged = check.status == "pass" or (failed and check.status == "fail")
    if not judged or error is None or not limit or "planted" in check.properties:
        return None
    return error / limit


def _by_name(suite: Suite) -> Mapping[str, Check]:
    return {f"{check.name} ({check.component})": check for check in suite.checks}


def _remarks(where: str, then: Suite, now: Suite) -> Iterator[str]:
    if then.properties.get("case") != now.properties.get("case"):
        yield f"{where}: another case than the base branch's: its ratios are not compared"
    for library in LIBRARIES:
        was, present = then.properties.get(library), now.properties.get(library)
        if was != present:
            yield f"{where}: made with {library} {present}, and with {was} on the base branch"
