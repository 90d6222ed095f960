"""What stands at the end of the page: known upstream bugs, the self-test, and what the run was made with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape

from ci.junit import Check, Suite
from ci.page.data import facts
from ci.page.run import STATUSES, Run, labels
from ci.page.text import badge, command, linked, said, text
from validation.case.plural import many

_PLANTED = "Planted defect seen: "
_MOMENT = len("2026-01-31T12:00:00")
"""Of what a run is called (ci/run.py): when it began."""
_FACTS = {
    "commit": "Commit",
    "megatron-core": "megatron-core",
    "transformers": "transformers",
    "torch": "PyTorch",
    "transformer-engine": "Transformer Engine",
    "python": "Python",
    "preset": "Preset",
    "precision": "Precision",
    "implementation": "Implementation",
    "transport": "Transport",
    "seed": "Seed",
    "gpu": "GPU",
    "driver": "Driver",
    "cpu": "CPU",
}


def known(run: Run) -> str:
    """Each known upstream bug once, with how many checks it excuses."""
    found: dict[str, list[str]] = defaultdict(list)
    for suite, name in zip(run.suites, labels(run.suites), strict=True):
        for check in suite.checks:
            if check.status == "known":
                _, _, bug = check.message.rpartition("known upstream bug: ")
                found[bug].append(name)
    if not found:
        return ""
    items = "".join(
        f'<li>{linked(bug)} <span class="quiet">{many(len(where), "check", spec=",")} in '
        f"{escape(', '.join(dict.fromkeys(where)))}</span></li>"
        for bug, where in found.items()
    )
    return f'<section aria-labelledby="known"><h2 id="known">Known upstream bugs</h2><ul class="bugs">{items}</ul></section>'


def self_test(run: Run) -> str:
    """Of each self-test how many planted defects were seen, and which were not. Where all were, one line says so."""
    if not run.self_tests:
        return ""
    bad = [suite for suite in run.self_tests if any(check.status != "pass" for check in suite.checks)]
    good = [suite for suite in run.self_tests if suite not in bad]
    items = "".join(f"<li>{_self_test(suite)}</li>" for suite in bad)
    if good:
        inside = "".join(f"<li>{_self_test(suite)}</li>" for suite in good)
        total = sum(len(suite.checks) for suite in good)
        said = f"{badge('pass')} {total:,} of {many(total, 'planted defect', spec=',')} seen"
        items += f'<li><details><summary>{said}</summary><ul class="seen">{inside}</ul></details></li>'
    words = "Each run plants defects in small cases of its own. The checks must see every one of them."
    return (
        '<section aria-labelledby="self-test"><h2 id="self-test">Self-test</h2>'
        f'<p class="quiet">{words}</p><ul class="selftests">{items}</ul></section>'
    )


def _self_test(suite: Suite) -> str:
    seen = [check for check in suite.checks if check.status == "pass"]
    worst = max((check.status for check in suite.checks), key=STATUSES.index, default="error")
    names = ", ".join(check.name.removeprefix(_PLANTED) for check in seen)
    counted = f"{len(seen)} of {many(len(suite.checks), 'planted defect')} seen"
    return (
        f'<p>{badge(worst)} {counted} <span class="quiet">{text(_case(suite))}</span></p>'
        + (f'<p class="quiet">Seen: {text(names)}</p>' if names else "")
        + _unseen([check for check in suite.checks if check.status != "pass"])
    )


def _unseen(checks: Sequence[Check]) -> str:
    items = "".join(
        f'<li>{text(check.name.removeprefix(_PLANTED))}: <span class="says">{linked(said(check))}</span></li>'
        for check in checks
    )
    return f"<ul>{items}</ul>" if items else ""


def _case(suite: Suite) -> str:
    """The case of a self-test in words; its name where it does not say them."""
    fields = [suite.properties.get(name, "") for name in ("preset", "precision", "implementation", "transport")]
    return ", ".join(fields) if all(fields) else suite.name


def about(run: Run) -> str:
    """When, with what, and how to do the same."""
    found = facts(run)
    said = {words: found[name] for name, words in _FACTS.items() if found.get(name) not in (None, "", "absent")}
    if "Commit" in said:
        said["Commit"] = ", ".join(one[:12] for one in said["Commit"].split(", ")) + (
            " with changes" if found.get("dirty") == "true" else ""
        )
    said |= _times(run)
    listed = "".join(f"<div><dt>{words}</dt><dd>{text(value)}</dd></div>" for words, value in said.items())
    commands = dict.fromkeys(suite.properties.get("command", "") for suite in run.suites)
    shown = "".join(command(one) for one in commands if one)
    return (
        f'<section aria-labelledby="about"><h2 id="about">About this run</h2><dl class="facts">{listed}</dl>{shown}</section>'
    )


def _times(run: Run) -> dict[str, str]:
    said = {}
    when = sorted(suite.timestamp for suite in run.suites if suite.timestamp)
    if when:
        said["Finished"] = when[-1].replace("T", " ")
    begun = sorted({suite.run for suite in run.suites} - {""})
    if len(begun) > 1:
        said["Runs"] = f"{len(begun)}, from {begun[0][:_MOMENT]} to {begun[-1][:_MOMENT]}"
    return said | {"Time of all cases": f"{sum(suite.seconds for suite in run.suites):,.1f} s"}
