"""Of which checks the page has numbers and words: of all, up to a limit; beyond it of those that a reader looks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import nlargest

from ci.junit import Suite
from ci.page.place import component
from ci.page.run import badness
from validation.case.plural import many

MOST = 100_000
"""Checks of which the page has all that is known. Of others it has case, title, status and colour, in two characters each."""


def numbered(suites: Sequence[Suite]) -> list[int]:
    """Their positions among the checks of all suites.

    What is no pass comes first: by its status, then by how early it stands in its file, which is in the flow of data. The worst
    pass of each case and component follows, which the map of layouts shows, then the passes nearest to their limits.
    """
    total = sum(len(suite.checks) for suite in suites)
    if total <= MOST:
        return list(range(total))
    return sorted(-found[-1] for found in nlargest(MOST, _telling(suites)))


def _telling(suites: Sequence[Suite]) -> Iterator[tuple[int, float, int]]:
    """How telling each check is, and last its position, which is counted down: of equals the first is more telling."""
    begin = 0
    for suite in suites:
        bad = [badness(check) for check in suite.checks]
        worst = _worst(suite, bad)
        for place, (status, share) in enumerate(bad):
            telling = (status + 1, -float(place)) if status else (int(place in worst), share)
            yield (*telling, -begin - place)
        begin += len(bad)


def _worst(suite: Suite, bad: Sequence[tuple[int, float]]) -> set[int]:
    """The places of the worst check of each component."""
    found: dict[str, int] = {}
    for place, check in enumerate(suite.checks):
        part = component(check.component)
        if part not in found or bad[place] > bad[found[part]]:
            found[part] = place
    return set(found.values())


def said(total: int) -> str:
    """What of a run with so many checks is not on the page; nothing if all is."""
    if total <= MOST:
        return ""
    return (
        f"All {many(total, 'check', spec=',')} are listed. {MOST:,} have their numbers here: first what is no pass, "
        f"then the worst of each "
        "layout and component, then the passes nearest to their limits. The JUnit files have the numbers of all others."
    )
