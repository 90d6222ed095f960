"""A run as the page sees it: its cases, what was expected of them, and the verdict."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ci.coverage import wrong
from ci.diagnosis import Diagnosis, diagnose
from ci.drift import Drift
from ci.expected import Expected, Manifest
from ci.gate import Judgement
from ci.junit import Check, Suite
from ci.links import NO_LINKS, Links
from ci.numbers import number
from ci.page.history import NO_HISTORY, History
from ci.page.text import GLYPHS
from ci.reasons import verdicts
from ci.reproduction import UNKNOWN, Sources
from validation.case.arrangement import short as shortened
from validation.case.plural import many

STATUSES = ("pass", "known", "unevaluated", "missing", "error", "fail")
"""From good to bad; `missing` is a check that the manifest names and no file has."""
OPEN = ("fail", "error", "missing")
"""What turns a run red."""
SELF_TEST = "self-test"
EDGE = 8
"""Levels of what is within the limit: 0 is nothing at all, 7 the last step before the limit."""


@dataclass(frozen=True)
class Run:
    """The testsuites of a run. `reasons` are sentences why it is no pass, beside what its checks say themselves.

    `accepted` says how much has drifted from the base branch and why that may be; empty where nothing has, or nobody said so.
    """

    suites: tuple[Suite, ...]
    verdict: str
    reasons: tuple[str, ...] = ()
    accepted: str = ""
    diagnosis: Diagnosis | None = None
    links: Links = NO_LINKS
    sources: Sources = UNKNOWN
    history: History = NO_HISTORY

    @property
    def cases(self) -> tuple[Suite, ...]:
        """The testsuites of cases."""
        return tuple(suite for suite in self.suites if not _tests_itself(suite))

    @property
    def self_tests(self) -> tuple[Suite, ...]:
        """The testsuites of planted defects, which stand behind the cases."""
        return tuple(suite for suite in self.suites if _tests_itself(suite))

    @property
    def counts(self) -> Counter[str]:
        """How many checks of the cases have each status."""
        return _counts(self.cases)


def judged(suites: Iterable[Suite], unreadable: Iterable[str] = ()) -> Run:
    """The run with the verdict that the files alone give: whether anything is absent, only a manifest can say."""
    found = tuple(sorted(suites, key=_size))
    reasons = [f"unreadable: {sentence}" for sentence in unreadable]
    reasons += [f"{suite.name} holds no check" for suite in found if not suite.checks]
    left_out = [(suite.name, suite.properties["left_out"]) for suite in found if "left_out" in suite.properties]
    reasons += [f"{name}: {count} of its checks were left out" for name, count in left_out]
    reasons += [f"{suite.name}: {why}" for suite in found if (why := wrong(suite))]
    counts = _counts(found)
    if counts["unevaluated"] and not any(counts[status] for status in OPEN):
        reasons.append(
            f"{many(counts['unevaluated'], 'check was', 'checks were', ',')} not evaluated, and nothing else says why"
        )
    undecided = reasons or not found or any(counts[status] for status in OPEN)
    verdict = "fail" if counts["fail"] else "error" if undecided else "pass"
    return Run(found, verdict, tuple(reasons), diagnosis=diagnose(found))


def by_manifest(manifest: Manifest, judgement: Judgement) -> Run:
    """The run with the gate's verdict and reasons, and with what should be there and is not."""
    read = {(expected.session, expected.file): suite for expected, suite in judgement.suites}
    found = (_completed(expected, read.get((expected.session, expected.file))) for expected in manifest.suites)
    suites = tuple(sorted(found, key=_size))
    verdict = "pass" if judgement.green else "fail" if _counts(suites)["fail"] else "error"
    diagnosis = diagnose([suite for _, suite in judgement.suites])
    return Run(suites, verdict, tuple(_told_once(judgement)), diagnosis=diagnosis)


def _told_once(judgement: Judgement) -> Iterator[str]:
    """The gate's reasons, but for those that the failing checks are themselves; what holds in many places stands once."""
    shown = {why for _, suite in judgement.suites for why in verdicts(suite.checks)}
    places: dict[str, list[str]] = defaultdict(list)
    for where, why in judgement.reasons:
        if why not in shown:
            places[why].append(where)
    for why, found in places.items():
        yield f"{found[0]}{f' and {len(found) - 1:,} more' if len(found) > 1 else ''}: {why}"


def _counts(suites: Iterable[Suite]) -> Counter[str]:
    return Counter(check.status for suite in suites for check in suite.checks)


def drifted(run: Run, moved: Drift | None) -> Run:
    """The run with what has drifted from the base branch: no pass, where nobody has said why it may."""
    if moved is None or not moved.found:
        return run
    if moved.accepted:
        return replace(run, accepted=f"{len(moved.found):,} drifted from the base branch, accepted: {moved.accepted}")
    reasons = (*run.reasons, *(f"drift: {why}" for why in moved.reasons))
    return replace(run, verdict="fail" if run.verdict == "pass" else run.verdict, reasons=reasons)


def _completed(expected: Expected, suite: Suite | None) -> Suite:
    there = {(check.component, check.name) for check in suite.checks} if suite else set()
    missing = [Check(*names, "missing", message=_MISSING) for names in expected.checks if names not in there]
    if suite is None:
        return Suite(expected.name, tuple(missing), {**expected.properties, "ranks": str(expected.ranks)})
    return replace(suite, checks=(*suite.checks, *missing))


_MISSING = "the manifest demands it, and no result has it"


def _size(suite: Suite) -> tuple[bool, int, str]:
    """A key to sort cases by: small ones first, the self-test last."""
    ranks = suite.properties.get("ranks", "")
    return (_tests_itself(suite), int(ranks) if re.fullmatch("[0-9]{1,6}", ranks) else 0, suite.name)


def share(check: Check) -> float | None:
    """The relative error as a share of its limit; None where nothing was measured.

    What must be equal to the bit has a limit of zero: equal is 0, anything else infinitely far off. A check that passes beyond
    its limit is not about this error: near-ties are excused, and a planted defect is meant to be large.
    """
    error, limit = number(check, "rel_error"), number(check, "tolerance")
    if error is None or limit is None:
        return None
    found = error / limit if limit > 0 else 0.0 if error == 0 else math.inf
    if found <= 1 or check.status != "pass":
        return math.inf if math.isnan(found) else found
    return None


def level(check: Check) -> int:
    """How deep a cell is coloured: within the limit a step is a factor of ten, or of two where there is a floor.

    Beyond it there are four, three of those factors apart.
    """
    found, factor = share(check), 10 if number(check, "floor") is None else 2
    if found is None or found <= 0:
        return 0
    steps = math.log(found, factor)
    if check.status == "pass":
        return max(0, min(EDGE - 1, math.floor(steps) + EDGE))
    return max(0, int(min(steps / 3, 3)))


def badness(check: Check) -> tuple[int, float]:
    """A key to find the worst of several checks by."""
    found = share(check)
    return (STATUSES.index(check.status), -1.0 if found is None else found)


def labels(suites: Sequence[Suite]) -> tuple[str, ...]:
    """What each is called here: its layout, with as much as tells it from others of the same layout."""
    found = [_layout(suite) for suite in suites]
    for field in _FIELDS:
        found = _told_apart(found, [suite.properties.get(field, "?") for suite in suites])
    counted = Counter(found)
    return tuple(one if counted[one] == 1 else suite.name for one, suite in zip(found, suites, strict=True))


def _told_apart(names: Sequence[str], values: Sequence[str]) -> list[str]:
    """The names, each with its value where that differs among those of one name."""
    of_name: dict[str, set[str]] = defaultdict(set)
    for name, value in zip(names, values, strict=True):
        of_name[name].add(value)
    return [f"{name} {value}" if len(of_name[name]) > 1 else name for name, value in zip(names, values, strict=True)]


_FIELDS = ("precision", "implementation", "preset", "transport")


def _tests_itself(suite: Suite) -> bool:
    return suite.name.startswith(f"{SELF_TEST}-")


def _layout(suite: Suite) -> str:
    """The layout with its options, `tp2+distributed`; the whole name where the suite does not say it."""
    said = SELF_TEST if _tests_itself(suite) else shortened(suite.properties.get("arrangement", ""))
    return said or suite.name


def short(check: Check) -> str:
    """The share of the limit in a few characters: `4e-6`; with a floor, how many floors: `0.61`."""
    found = share(check)
    if found is None or check.status in ("error", "missing", "unevaluated"):
        return GLYPHS["pass"] if check.status == "pass" else ""
    if found in (0, math.inf):
        return "=" if found == 0 else "∞"
    floor, error = number(check, "floor"), number(check, "rel_error")
    value = error / floor if floor and error is not None else found
    rounded = float(f"{value:.2g}")
    if 0.01 <= rounded < 1000:
        return f"{rounded:g}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def measure(check: Check) -> str:
    """The same for a sentence."""
    found = share(check)
    if found is None:
        return "nothing measured" if check.status != "pass" else "holds"
    return "equal" if found == 0 else f"{short(check)} × {'floor' if number(check, 'floor') else 'limit'}"
