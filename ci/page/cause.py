"""The cause, as near as the results lead to it: the first failure of each layout, and what else makes the run red."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ci import reproduction
from ci.diagnosis import Diagnosis
from ci.diagnosis.diagnosis import UNDECIDED
from ci.junit import Check, Suite
from ci.links import FIRST_RED_CHECK, Links
from ci.page.run import OPEN, STATUSES, Run, labels, measure
from ci.page.text import anchor, badge, command, link, linked, said, text
from ci.reproduction import Sources
from validation.case.plural import many
from validation.case.words import PAGE, words_in

MOST_REASONS = 30
MOST_NAMED = 4
"""Layouts that are named in one line."""


@dataclass(frozen=True)
class _First:
    """A case's failure that is nearest to the cause; `label` is what the case is called here."""

    suite: Suite
    label: str
    check: Check


def cause(run: Run) -> str:
    """What went wrong, from the front of the flow of data; nothing for a run that is green."""
    parts = _diagnosis(run.diagnosis) + _firsts(run) + _reasons(run)
    if not parts:
        return ""
    parts += f'<p class="next">{_next(run.links)}</p>'
    return f'<section aria-labelledby="cause" class="cause"><h2 id="cause">What went wrong</h2>{parts}</section>'


def _next(to: Links) -> str:
    """Where to go on."""
    page = link(to.first_red_check, "What to do with a first red check") if to.first_red_check else ""
    run = link(to.run, f"The run on {to.service}") if to.run else ""
    return " · ".join(filter(None, (page or f"What to do with a first red check: <code>docs/{FIRST_RED_CHECK}</code>", run)))


def _diagnosis(found: Diagnosis | None) -> str:
    """What the failing cases have in common, how sure that is, and which case would decide."""
    if found is None:
        return ""
    sure = "No other cause fits these results." if found.certain else "This is likely, and not certain."
    sure = "This is not certain: these results do not decide it." if UNDECIDED in found.groups else sure
    rest = text(f"{sure} {found.deciding}." if found.deciding else sure)
    if found.first is not None:
        rest += f' <a href="#{anchor(found.first.suite, found.first.name)}">Open its first check</a>'
    return f'<p class="diagnosis">{linked(f"{found.sentence}.")}</p><p class="quiet">{rest}</p>'


def _reasons(run: Run) -> str:
    """What no check says: a file that is missing, another commit."""
    if not run.reasons:
        return ""
    listed = "".join(f"<li>{linked(reason)}</li>" for reason in run.reasons[:MOST_REASONS])
    if len(run.reasons) > MOST_REASONS:
        listed += f"<li>and {len(run.reasons) - MOST_REASONS:,} more, which the gate's log has</li>"
    return f'<ul class="reasons" aria-label="Other reasons">{listed}</ul>'


def _firsts(run: Run) -> str:
    named = zip(run.suites, labels(run.suites), strict=True)
    found = [_First(suite, name, check) for suite, name in named if (check := first_failure(suite)) is not None]
    if not found:
        return ""
    groups: dict[tuple[str, str], list[_First]] = defaultdict(list)
    for one in sorted(found, key=lambda one: -STATUSES.index(one.check.status)):
        groups[one.check.status, one.check.name].append(one)
    items = "".join(f"<li>{_group(group, run, opened=not number)}</li>" for number, group in enumerate(groups.values()))
    return f'<h3 id="first">First failure of each layout</h3><ol class="firsts" aria-labelledby="first">{items}</ol>'


def first_failure(suite: Suite) -> Check | None:
    """The failure nearest to the cause: the first of the file, whose checks stand in the flow of data."""
    failing = [check for check in suite.checks if check.status in OPEN]
    return min(failing, key=lambda check: check.status == "missing", default=None)


def _group(group: Sequence[_First], of: Run, opened: bool) -> str:
    """Layouts that fail at the same check first: the smallest of them in full, the others a click away."""
    check = group[0].check
    names = ", ".join(one.label for one in group[:MOST_NAMED])
    names += f" and {len(group) - MOST_NAMED} more" if len(group) > MOST_NAMED else ""
    others = "".join(f"<li>{_folded(one, of)}</li>" for one in group[1:])
    return (
        f"<details{' open' if opened else ''}><summary>{badge(check.status)} <b>{text(check.name)}</b> "
        f'<span class="quiet">in {text(names)}</span></summary>{_failure(group[0], of)}'
        + (f'<p class="quiet">The others:</p><ul class="others">{others}</ul>' if others else "")
        + "</details>"
    )


def _folded(one: _First, of: Run) -> str:
    summary = f'{text(one.label)} <span class="quiet">{measure(one.check)}</span>'
    return f"<details><summary>{summary}</summary>{_failure(one, of)}</details>"


def _failure(one: _First, of: Run) -> str:
    words, how = said(one.check), reproduction.command(one.check)
    if one.check.status == "missing":
        missing = sum(check.status == "missing" for check in one.suite.checks)
        is_, them = ("is", "it") if missing == 1 else ("are", "them")
        counted = many(len(one.suite.checks), "check", spec=",")
        words = f"{missing:,} of {counted} {is_} missing: the manifest demands {them}, and no result has {them}"
    numbers = f'<a href="#{anchor(one.suite.name, one.check.name)}">All numbers of this check</a>'
    says = f'<p class="says">{linked(words)}</p>{_explained(words, of.links)}'
    return f"{says}{_again(one.suite, how, of.sources) if how else ''}<p>{numbers}</p>"


def _explained(words: str, to: Links) -> str:
    """What the words of a failure mean: links to each, or the page that has them if nobody knows where it is shown."""
    shown = ", ".join(link(address, name) for name, address in to.explained(words))
    if not shown and (names := ", ".join(word.name for word in words_in(words))):
        shown = f"<code>docs/{PAGE}</code> ({text(names)})"
    return f'<p class="quiet">What it means: {shown}</p>' if shown else ""


def _again(suite: Suite, how: str, of: Sources) -> str:
    return command(f"{reproduction.setup(suite, how, of)}\n{reproduction.elsewhere(how)}")
