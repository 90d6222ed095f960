"""The diagnosis of a run: which explanation is contradicted least, and what would decide between the best two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ci.diagnosis import words
from ci.diagnosis.causes import CONTRADICTED, PLAIN, Cause, causes
from ci.diagnosis.deciding import deciding, deciding_kernel
from ci.diagnosis.diagnosis import CRASH, INFRASTRUCTURE, UNDECIDED, Diagnosis, First
from ci.diagnosis.evidence import RED, TOLD_APART, Seen, is_self_test, phase, seen
from ci.junit import Suite
from validation.case.errors import ExitCode
from validation.case.plural import many

_MOST = 2
"""Causes of wrong results that are told; of more it is said how many there are."""


@dataclass(frozen=True)
class Explained:
    """Cases that fail at one check, the others, and every explanation of that, the best first."""

    name: str
    failing: tuple[Seen, ...]
    passing: tuple[Seen, ...]
    causes: tuple[Cause, ...]

    @property
    def best(self) -> Cause:
        """The explanation with the least against it."""
        return self.causes[0]

    @property
    def rivals(self) -> tuple[Cause, ...]:
        """Explanations of another group that no case contradicts, or no more cases than the best."""
        limit = max(CONTRADICTED - 1, self.best.cost)
        return tuple(cause for cause in self.causes if cause.cost <= limit and self._is_other(cause))

    def _is_other(self, cause: Cause) -> bool:
        """What needs more than the best does is no other explanation, nor what is plainly a part of it."""
        if cause.groups == self.best.groups or (self.best.traits and set(self.best.traits).issubset(cause.traits)):
            return False
        return not (cause.cost > self.best.cost and cause.is_part_of(self.best))


def diagnose(suites: Sequence[Suite]) -> Diagnosis | None:
    """The cause of what fails in these testsuites; None if nothing does."""
    cases = seen(suites)
    broken = _of_broken([case for case in cases if case.broken])
    wrong = _of_wrong(
        [case for case in cases if case.wrong],
        [case for case in cases if not case.wrong and not case.broken],
        others=bool(broken),
    )
    told = [*broken, *wrong[:_MOST]]
    if not told:
        return _of_others(suites)
    return told[0] if len(told) == 1 else _joined(told, more=len(wrong[_MOST:]))


def _of_broken(broken: Sequence[Seen]) -> list[Diagnosis]:
    if not broken:
        return []
    code = str(int(ExitCode.FAIL))
    crashed = [case for case in broken if case.suite.properties.get("broken") == code]
    first = [*crashed, *broken][0]
    return [Diagnosis(words.broken(broken, first), (CRASH if crashed else INFRASTRUCTURE,), certain=True)]


def _of_wrong(failing: Sequence[Seen], passing: Sequence[Seen], *, others: bool) -> list[Diagnosis]:
    """One diagnosis, or several if they explain what one cannot. `others` says that more cases are red, for another reason."""
    if not failing:
        return []
    whole = _explained(failing, passing)
    parts = _parts(failing, passing)
    if _need_two(whole, parts):
        return [_told(part, others=True) for part in _different_first(parts)]
    return [_told(whole, others=others)]


def _explained(failing: Sequence[Seen], passing: Sequence[Seen]) -> Explained:
    name = _shared(failing)
    told = [case for case in passing if not case.narrowed or name in case.sound]
    return Explained(name, tuple(failing), tuple(told), tuple(causes(failing, told, name)))


def _shared(failing: Sequence[Seen]) -> str:
    """The first wrong check of most cases; of several, the one that comes first in the first case that has it."""
    firsts = [case.first.name for case in failing]
    return max(firsts, key=firsts.count)


def _parts(failing: Sequence[Seen], passing: Sequence[Seen]) -> list[Explained]:
    """The failing cases by their first wrong check, each compared with the cases in which that check is sound."""
    by_first: dict[str, list[Seen]] = {}
    for case in failing:
        by_first.setdefault(case.first.name, []).append(case)
    found = []
    for name, some in sorted(by_first.items(), key=lambda item: -len(item[1])):
        others = [case for case in failing if name in case.sound]
        found.append(_explained(some, [*passing, *others]))
    return found


def _need_two(whole: Explained, parts: Sequence[Explained]) -> bool:
    """Whether two causes explain what one does not."""
    good = all(part.best.cost < CONTRADICTED for part in parts) and len({part.best.groups for part in parts}) > 1
    return good and (whole.best.cost >= CONTRADICTED or _goes_further(whole))


def _different_first(parts: Sequence[Explained]) -> list[Explained]:
    """The first part of each group of properties, and then the others: what is told first is to name all groups."""
    first: dict[tuple[str, ...], Explained] = {}
    for part in parts:
        first.setdefault(part.best.groups, part)
    return [*first.values(), *(part for part in parts if part is not first[part.best.groups])]


def _goes_further(whole: Explained) -> bool:
    """Whether one rank fails, and some other case where one rank is sound."""
    alone = [case for case in whole.failing if "ranks" not in case.traits]
    firsts = {case.first.name for case in whole.failing}
    return not whole.best.traits and any(name in case.sound for name in firsts for case in alone)


def _told(found: Explained, *, others: bool) -> Diagnosis:
    check = next(check for case in found.failing if (check := case.wrong_at(found.name)))
    where = next(case for case in found.failing if case.wrong_at(found.name))
    first = First(check.component, words.name(check), where.suite.name)
    certain = not found.rivals and found.best.cost <= PLAIN and bool(found.passing or not found.best.of_cases)
    rivals = found.rivals if found.best.cost < CONTRADICTED else ()
    cases = (found.failing, found.passing)
    sentence = words.sentence(found.best, rivals, *cases, found.name, certain=certain, others=others)
    ordered = [where, *(case for case in (*found.failing, *found.passing) if case is not where)]
    how = deciding_kernel(check, found.best, ordered) or deciding(found.best, rivals, [*found.failing, *found.passing])
    return Diagnosis(sentence, words.groups(found.best, phase(check)), certain, how, first)


def _of_others(suites: Sequence[Suite]) -> Diagnosis | None:
    """What can be said of the first failure if none is evidence: no known layout, a mended bug, limits that decide nothing."""
    wrong = [(suite, check) for suite in suites if not is_self_test(suite) for check in suite.checks if check.status in RED]
    for suite, check in sorted(wrong, key=lambda found: found[1].failure in TOLD_APART):
        first = First(check.component, words.name(check), suite.name)
        group, said = words.other(check)
        return Diagnosis(said, (group,), group != UNDECIDED, first=first)
    return None


def _joined(told: Sequence[Diagnosis], more: int) -> Diagnosis:
    """Several causes in one diagnosis, that of the first first. `more` is how many are not told."""
    sentences = [found.sentence for found in told] + ([f"and {more} more"] if more else [])
    sentence = f"{many(len(told) + more, 'cause')}: " + "; ".join(sentences)
    groups = tuple(dict.fromkeys(group for found in told for group in found.groups))
    decides = next((found.deciding for found in told if found.deciding), "")
    first = next(found.first for found in told if found.first)  # of those that broke, which have none, there is one
    return Diagnosis(sentence, groups, all(found.certain for found in told), decides, first)
