"""Which checks a run makes: those that `--only` names as they are shown, and those that failed before (`--last-failed`)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ci import junit
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.strangers import shown
from validation.checks import before
from validation.checks.facts import case_facts
from validation.checks.left_out import PROPERTY
from validation.run.options import Settings

EVERYTHING = None
"""Stands for all checks of a testsuite: it has no report, or its run did not finish, so nothing is known of any."""
_FAILED = ("fail", "error", "unevaluated")
_PLACE = re.compile(r"^(Step \d+ )?((Layer|MTP) \d+ )?")
"""What stands before the name of a tensor in a title."""
Failed = Mapping[str, Collection[str] | None]
"""By testsuite the titles of its checks that failed, or EVERYTHING."""


@dataclass(frozen=True)
class Selection:
    """`patterns` are what --only was given; `failed` what failed before, None if nobody asked."""

    patterns: tuple[str, ...] = ()
    failed: Failed | None = None

    def __bool__(self) -> bool:
        """Whether it leaves anything out."""
        return bool(self.patterns) or self.failed is not None

    def chosen(self, checks: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the checks, pairs of testsuite and title, that are to be made. Raises UsageError for a name of none."""
        found = set(checks)
        if self.patterns:
            titles = {title for _, title in found}
            wanted = set[str]().union(*(_named(pattern, titles) for pattern in self.patterns))
            found = {(suite, title) for suite, title in found if title in wanted}
        return {check for check in found if self._failed(*check)}

    def _failed(self, suite: str, title: str) -> bool:
        if self.failed is None:
            return True
        titles = self.failed.get(suite, ())
        return titles is EVERYTHING or title in titles


def _named(pattern: str, titles: Collection[str]) -> set[str]:
    """The titles that a pattern names: the one that it is, else those that it matches or that contain it.

    A pattern that matches no whole title is of what stands behind the layer: `Router*`.
    """
    lowered, wanted = {title: title.casefold() for title in titles}, pattern.strip().casefold()
    found = {title for title, low in lowered.items() if low == wanted}
    if not found and re.search(r"[*?\[]", wanted):
        found = {title for title, low in lowered.items() if fnmatchcase(low, wanted)}
        found = found or {title for title in titles if fnmatchcase(_behind_its_layer(title).casefold(), wanted)}
    found = found or {title for title, low in lowered.items() if wanted in low}
    if not found:
        raise UsageError(f"--only {shown(pattern)}: no check is called so{_nearest(wanted, lowered)}")
    return found


def _nearest(wanted: str, titles: Collection[str]) -> str:
    """What may have been meant: the title that is nearest, or the part of it behind its layer."""
    parts = map(_behind_its_layer, sorted(titles))
    words = {word.casefold(): word for word in (*titles, *parts)}
    near = difflib.get_close_matches(wanted, words, n=1, cutoff=0.5)
    return f"; the nearest is {words[near[0]]!r}" if near else "; -v shows all names, such as 'Layer 0 Attention Output'"


def _behind_its_layer(title: str) -> str:
    return _PLACE.sub("", title)


@dataclass(frozen=True)
class _Before:
    """What earlier runs said of a testsuite; `reports` from the fullest, which is the oldest, to the newest."""

    reports: tuple[junit.Suite, ...]

    @property
    def last(self) -> Mapping[str, str]:
        """The status of each check when it was last made, by its title."""
        return {check.name: check.status for report in self.reports for check in report.checks}

    @property
    def failed(self) -> Collection[str] | None:
        """What failed when it was last made."""
        if not self.last or any([check.name for check in report.checks] == ["run"] for report in self.reports):
            return EVERYTHING
        return frozenset(title for title, status in self.last.items() if status in _FAILED)

    @property
    def missing(self) -> int:
        """How many checks are in no report."""
        whole = [len(report.checks) + int(report.properties.get(PROPERTY, "0")) for report in self.reports]
        return max(whole, default=0) - len(self.last)


def failed_before(wanted: Settings, self_test: str) -> Failed:
    """What the reports in the results folder say; `self_test` names that testsuite.

    A testsuite without a report counts as failed: nobody has seen it pass. Raises UsageError if there is no report at all, or
    if nothing failed and the runs left checks out.
    """
    suites = {case.name: case_facts(case) for case in wanted.cases} | ({self_test: {}} if self_test else {})
    found = {name: _before(wanted.results / f"{name}.xml", facts) for name, facts in suites.items()}
    made, missing = (sum(counts) for counts in zip(*((len(one.last), one.missing) for one in found.values()), strict=True))
    if not made:
        raise UsageError(f"--last-failed: {wanted.results} has no report of these cases; run them without it first")
    failed = {name: one.failed for name, one in found.items()}
    if missing and not any(titles is EVERYTHING or titles for titles in failed.values()):
        raise UsageError(
            f"--last-failed: nothing failed before, but {missing} of {many(made + missing, 'check')} "
            f"{'was' if missing == 1 else 'were'} not made; "
            "run without --last-failed to make them"
        )
    return failed


def _before(path: Path, facts: Mapping[str, str]) -> _Before:
    try:
        return _Before(tuple(junit.read(report) for report in before.reports(path, facts)))
    except junit.UnreadableResults as error:
        raise UsageError(f"--last-failed: {error}; remove the file, or run the case again") from None
