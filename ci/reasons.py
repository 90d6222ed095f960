"""Why a testsuite is not what the manifest demands: a sentence for each reason, none where it is."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ci.expected import Excuse, Expected, Name
from ci.junit import UNEVALUATED, Check, Suite
from ci.numbers import contradictions, number
from ci.requirements import fits, of_others, unmet
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.plural import many

UNFINISHED = "did not finish"
"""The message of the testcase that stands for a run that has not ended (ci.junit.write_unfinished)."""
UNEXPECTED = "passes, though it shows the known upstream bug"
"""What the checks say of a known bug that does not show (validation/checks/judging.py)."""
KNOWN = "known upstream bug: "
DIRTY = "made with files that are not those of its commit"
RED = ("fail", "error")
_LAST_PLACE = 1e-15
"""What the checks themselves grant a projection (validation/compare/verdict.py)."""
FORMULA = "formula"
"""What decides about a second moment beside its limit (validation/compare/limits.py)."""
_SQUARE = " Second Moment"
_DECIDING = (0.5, 1.0)
"""Limits from which on a check decides nothing, where the reference tells them. Others are known before, and are kept."""
_SHOWN = 3


@dataclass(frozen=True)
class Origin:
    """What results must be made of: the commit of this tree, that of Megatron where a checkout runs, clean or not."""

    commit: str
    megatron_commit: str = ""
    dirty_allowed: bool = False


def of_suite(expected: Expected, suite: Suite, origin: Origin) -> Iterator[str]:
    """Every reason."""
    if suite.name != expected.name:
        yield f"is of the testsuite {suite.name}, not of {expected.name}"
    yield from _made_as_required(expected, suite)
    yield from _made_of(suite, origin)
    yield from _versions(expected, suite, origin)
    if [check.message for check in suite.checks] == [UNFINISHED]:
        yield "did not finish: the run was killed, or is still going"
        return
    if not ("broken" in suite.properties and is_red(suite)):  # the run that broke says it itself
        yield from _ranks(expected, suite)
    yield from _as_many_checks(expected, suite.checks)
    yield from _whole(suite)
    yield from verdicts(suite.checks)
    yield from _excused(expected, suite)
    yield from _numbers(expected, suite.checks) if expected.ranks else _planted(expected, suite)


def _made_as_required(expected: Expected, suite: Suite) -> Iterator[str]:
    for name, wanted in expected.properties.items():
        found = suite.properties.get(name)
        if found is None:
            yield f"does not say its {name}, and {wanted} is required"
        elif found != wanted:
            yield f"made with {name} {found}, and {wanted} is required"


def _made_of(suite: Suite, origin: Origin) -> Iterator[str]:
    said = suite.properties
    if said.get("commit") != origin.commit:
        found = said.get("commit", "unknown")
        yield f"made on commit {found}, and {origin.commit} is required: every job must check out the same"
    if said.get("dirty") != "false" and not origin.dirty_allowed:
        changed = said.get("dirty") == "true"
        yield DIRTY if changed else "does not say that its files are those of its commit"
    if "left_out" in said:
        yield f"made without {said['left_out']} of its checks, which a run leaves out if something selects checks (-k, -x)"
    if "plugin" in said:
        yield f"made with the plugin {said['plugin']}, which changes what is compared"
    if "pytest_options" in said:
        yield f"made with {said['pytest_options']} for pytest, which can change what a check says"
    if said.get("megatron-commit", "") != origin.megatron_commit or (("megatron-path" in said) != bool(origin.megatron_commit)):
        found = said.get("megatron-commit") or said.get("megatron-path") or "the installed one"
        yield f"made with the Megatron {found}, and {origin.megatron_commit or 'the installed one'} is required"


def _versions(expected: Expected, suite: Suite, origin: Origin) -> Iterator[str]:
    # A checkout is that commit's, whatever version it says it is.
    wanted = of_others(expected.requires, ["megatron-core"]) if origin.megatron_commit else expected.requires
    yield from unmet(wanted, suite.properties)


def _whole(suite: Suite) -> Iterator[str]:
    """A run that broke has left checks that could not be decided."""
    if "broken" in suite.properties and all(check.status in ("pass", "known") for check in suite.checks):
        yield f"says that its run broke with exit code {suite.properties['broken']}, and every check passes"


def is_red(suite: Suite) -> bool:
    """Whether a check of it fails or could not be decided. What was not evaluated for that reason is no reason of its own."""
    return any(check.status in RED for check in suite.checks)


def unevaluated(suite: Suite) -> str:
    """What was not evaluated in a testsuite, and why; empty if all was."""
    found = [check for check in suite.checks if check.status == UNEVALUATED]
    if not found:
        return ""
    why = found[0].message.partition("\n")[0]
    return _counted(_names(found), "check was not evaluated", "checks were not evaluated") + (f" ({why})" if why else "")


def _ranks(expected: Expected, suite: Suite) -> Iterator[str]:
    """Each declared rank has said where it stands, and holds a part of some tensor."""
    compared = {rank for check in suite.checks for rank in check.properties.get("ranks", "").split(",")}
    placed = {rank for rank in range(expected.ranks) if f"rank_{rank}_place" in suite.properties}
    silent = [str(rank) for rank in range(expected.ranks) if rank not in placed or str(rank) not in compared]
    if silent:
        yield (
            f"{many(expected.ranks, 'rank is', 'ranks are')} declared, and nothing is there of rank "
            f"{', '.join(silent[:_SHOWN])}{_more(silent)}"
        )


def _as_many_checks(expected: Expected, checks: Sequence[Check]) -> Iterator[str]:
    counted = Counter((check.component, check.name) for check in checks)
    wanted = dict.fromkeys(expected.checks)
    missing, extra = [one for one in wanted if one not in counted], [one for one in counted if one not in wanted]
    twice = [one for one, count in counted.items() if count > 1]
    if not checks:
        yield "holds no check at all"
    elif missing:
        yield _counted(missing, "check is missing", "checks are missing")
    if extra:
        yield _counted(extra, "check is there that nobody expects", "checks are there that nobody expects")
    if twice:
        yield _counted(twice, "check is there more than once", "checks are there more than once")
    if checks and all(check.status == "known" for check in checks):
        yield "every check is skipped as a known upstream bug: nothing was compared"


def verdicts(checks: Sequence[Check]) -> Iterator[str]:
    """The reasons that the checks are themselves: what fails, what could not be decided."""
    failed = [check for check in checks if check.status == "fail"]
    upstream = [check for check in failed if UNEXPECTED in check.message]
    if wrong := [check for check in failed if UNEXPECTED not in check.message]:
        line = wrong[0].message.partition("\n")[0]
        said = f"; the first in the flow of data: {line}" if line else ""
        yield f"{_counted(_names(wrong), 'check fails', 'checks fail')}{said}"
    if upstream:
        yield _counted(_names(upstream), "check of a known upstream bug passes", "checks of known upstream bugs pass") + (
            "; if upstream is mended, remove the entry from validation/run/known.yaml"
        )
    if errors := [check for check in checks if check.status == "error"]:
        first = errors[0].message.partition("\n")[0]
        said = _counted(_names(errors), "check could not be decided", "checks could not be decided")
        yield f"{said} ({first})" if first else said


def _excused(expected: Expected, suite: Suite) -> Iterator[str]:
    """A bug excuses what it can show: in its layouts and implementations, its versions and its checks."""
    core = suite.properties.get("megatron-core", "absent")
    listed = [bug for bug in expected.excuses if fits(core, bug.megatron_core)]
    known = [check for check in suite.checks if check.status == "known"]
    unlisted, excused = _divided(known, lambda check: any(_excuses(bug, check) for bug in listed))
    if unlisted:
        said = _counted(_names(unlisted), "check is skipped", "checks are skipped")
        yield f"{said} for a bug that validation/run/known.yaml does not list for it"
    smaller, larger = _divided(excused, lambda check: not _as_large(check, expected, listed))
    if larger:
        said = _counted(_names(larger), "check is skipped", "checks are skipped")
        yield f"{said} for a known upstream bug that does not make as large an error"
    if wider := [check for check in smaller if not _is_the_bugs(check, expected)]:
        said = _counted(_names(wider), "check is skipped", "checks are skipped")
        yield f"{said} for a known upstream bug without a number that shows that it passes once the bug is taken out"


def _divided(checks: Iterable[Check], which: Callable[[Check], bool]) -> tuple[list[Check], list[Check]]:
    """Those of which it is not so, and those of which it is. A file may have 100,000: each is looked at once."""
    found: tuple[list[Check], list[Check]] = ([], [])
    for check in checks:
        found[which(check)].append(check)
    return found


def _excuses(bug: Excuse, check: Check) -> bool:
    said = check.message.partition(KNOWN)[2]
    return said.startswith(bug.what) and (check.component, check.name) in bug.checks


def _as_large(check: Check, expected: Expected, bugs: Iterable[Excuse]) -> bool:
    """Whether the bug that a check names makes an error of its size. What is no number has none.

    A bug that leaves any number may leave none, and may have ended the first run: then no tensor of it is compared.
    """
    most = max((bug.at_most for bug in bugs if _excuses(bug, check)), default=0.0)
    error = number(check, "rel_error")
    if error is None:
        return most == math.inf or _in(check, expected.tensors)  # a tensor without a number is said as such
    return 0 <= error <= most or (most == math.inf and check.properties["rel_error"] == "nan")


def _is_the_bugs(check: Check, expected: Expected) -> bool:
    """The run from which the bug has been taken out agrees with the reference, as a pass must, and the other run does not."""
    error, limit, without = (number(check, name) for name in ("rel_error", "tolerance", "rel_error_without"))
    if error is None and not _in(check, expected.tensors):
        return True  # of a bug that may end a run
    if error is None or without is None or limit is None or _loose(check, expected):
        return False
    near_tie = limit == 0 and _in(check, expected.near_ties)
    return 0 <= without < math.inf and (near_tie or without <= limit)


def _loose(check: Check, expected: Expected) -> bool:
    """Whether it was judged by a wider limit than its own."""
    tensor = expected.tensors.get((check.component, check.name))
    return tensor is not None and (number(check, "tolerance") or 0) > _widest(check, tensor.limit)


def _widest(check: Check, limit: float) -> float:
    """The widest limit that the check may have, of the one that its tensor has: a square's, if a formula decides about it."""
    squared = check.properties.get("decided_by") == FORMULA and check.name.endswith(_SQUARE)
    return (1 + limit) ** 2 - 1 if squared and limit in _DECIDING else limit


def _numbers(expected: Expected, checks: Sequence[Check]) -> Iterator[str]:
    """A pass is not believed against its own numbers, nor without any."""
    passed = [check for check in checks if check.status == "pass"]
    held, wrong = _divided(passed, lambda check: not _holds(check, _in(check, expected.near_ties)))
    if wrong:
        yield f"{_passing(wrong)}, though the numbers are above the limit or no numbers"
    if silent := [check for check in passed if _in(check, expected.tensors) and "rel_error" not in check.properties]:
        yield f"{_passing(silent)} without a number"
    loose: dict[float, list[Check]] = defaultdict(list)
    for check in passed:
        if _loose(check, expected):
            loose[_widest(check, expected.tensors[check.component, check.name].limit)].append(check)
    yield from (f"{_passing(found)} under a limit above {limit:g}" for limit, found in sorted(loose.items()))
    yield from _contradictions(expected, [*held, *(check for check in checks if check.status == "known")])


def _contradictions(expected: Expected, checks: Iterable[Check]) -> Iterator[str]:
    """What is numbered is believed if one tensor can have all of these numbers, the one that the check compares."""
    found: list[tuple[Check, str]] = []
    for check in filter(_finite, checks):
        tensor = expected.tensors.get((check.component, check.name))
        said = next(contradictions(check, expected.ranks, expected.properties.get("precision", "")), "")
        if not said and tensor is not None and number(check, "elements") != tensor.elements:
            said = f"elements {check.properties['elements']}, and its tensor has {tensor.elements}"
        found.append((check, said))
    yield from _untrue(found)


def _finite(check: Check) -> bool:
    """Whether it has an error that is a number. What has not is said elsewhere."""
    error = number(check, "rel_error")
    return error is not None and 0 <= error < math.inf


def _untrue(found: Iterable[tuple[Check, str]]) -> Iterator[str]:
    """The sentence about checks of which something is said; none if there are none."""
    wrong = [(check, said) for check, said in found if said]
    if wrong:
        one, more = "check has numbers that cannot be true", "checks have numbers that cannot be true"
        yield f"{_counted(_names(check for check, _ in wrong), one, more)} ({wrong[0][1]})"


def _planted(expected: Expected, suite: Suite) -> Iterator[str]:
    """A planted defect is seen by a check that fails: its numbers are above its limit, and one tensor can have all of them."""
    shown, unshown = _divided((check for check in suite.checks if check.status == "pass"), lambda check: not _fails(check))
    if unshown:
        said = _counted(_names(unshown), "planted defect counts as seen", "planted defects count as seen")
        yield f"{said}, and no number there is above its limit: run the session again"
    precision = expected.properties.get("precision", "")
    failed = [replace(check, status="fail") for check in shown if _finite(check)]
    yield from _untrue((check, next(contradictions(check, _ranks_of(check), precision), "")) for check in failed)


def _fails(check: Check) -> bool:
    """Whether its numbers are those of a failure. A tensor that is not finite has no error, and no largest difference.

    A check that a rank could not make of a tensor has no number at all: then its line has the rank's words.
    """
    error, limit, most, largest = (number(check, name) for name in ("rel_error", "tolerance", "max_tolerance", "max_diff"))
    if error is None and limit is None and largest is None:
        said = check.details.partition("\n")[0].partition(f"first failing check {check.properties.get('first', '')} (")[2]
        return said.endswith(")") and len(said) > 1 and not said.startswith("relative ")
    widest = (1 + _DECIDING[-1]) ** 2 - 1 if check.properties.get("decided_by") == FORMULA else _DECIDING[-1]
    if error is None or largest is None or limit is None or not 0 <= limit <= widest:
        return False
    if math.isnan(error):
        return check.properties["rel_error"] == "nan" and check.properties["max_diff"] in ("nan", "inf")
    return error >= 0 and (not _holds(check, near_tie=False) or (most is not None and largest > most))


def _ranks_of(check: Check) -> int:
    """How many ranks the case of a planted defect has; 0, which no rank can be of, if its layout is none."""
    try:
        return Layout.parse(check.properties.get("layout", "")).ranks
    except UsageError:
        return 0


def _passing(checks: Sequence[Check]) -> str:
    return _counted(_names(checks), "check passes", "checks pass")


def _in(check: Check, names: Collection[Name]) -> bool:
    return (check.component, check.name) in names


def _holds(check: Check, near_tie: bool) -> bool:
    """A limit of 0 is left out where a near-tie may pass it."""
    error, limit = number(check, "rel_error"), number(check, "tolerance")
    if error is None:
        return True
    if limit is None or not 0 <= error < math.inf:
        return False
    return (near_tie and limit == 0) or (error <= limit and _unscaled(check, error, limit))


def _unscaled(check: Check, error: float, limit: float) -> bool:
    """Whether the projection on the reference is 1, as far as the limit lets it be something else."""
    projection = number(check, "projection")
    return projection is None or error == 0 or abs(projection - 1) <= max(limit, _LAST_PLACE)


def _names(checks: Iterable[Check]) -> list[tuple[str, str]]:
    return [(check.component, check.name) for check in checks]


def _counted(checks: Sequence[tuple[str, str]], one: str, more: str) -> str:
    shown = ", ".join(f"{name} ({component})" for component, name in checks[:_SHOWN])
    return f"{len(checks)} {one if len(checks) == 1 else more}: {shown}{_more(checks)}"


def _more(listed: Sequence[object]) -> str:
    return f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
