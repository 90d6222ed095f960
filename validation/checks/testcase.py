"""What pytest reports of a check, and what the ranks say of themselves, as JUnit has them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ci import junit
from ci.links import links
from validation.case import failures
from validation.case.words import PAGE, words_in

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict
    from validation.run.result import Result

LONGEST = 300
"""Characters of a message; the body of its element has the rest."""


def ranks_of(result: Result) -> dict[str, str]:
    """A testsuite's properties about each rank: memory in MiB, and its place in the layout."""
    said = {}
    for rank, found in enumerate(result.memory):
        said[f"rank_{rank}_peak_memory_over_imports_mib"] = str((found["peak"] - found["baseline"]) >> 20)
        if found["device_peak"]:
            said[f"rank_{rank}_peak_gpu_memory_mib"] = str(found["device_peak"] >> 20)
        said[f"rank_{rank}_place"] = ", ".join(f"{degree} {index}" for degree, index in result.places[rank].items())
        said[f"rank_{rank}_parameters_mib"] = f"{found['parameters'] / (1 << 20):.1f}"
    return said


def check_of(report: Any, status: str, verdict: Verdict | None, line: str, details: str) -> junit.Check:
    """The testcase of pytest's report of a check, with its verdict where the check left one."""
    said = verdict.failure if verdict else failures.EXCEPTION
    return junit.Check(
        component=report.component,
        name=report.title,
        status=status,
        seconds=report.duration,
        message=message_of(status, verdict, line),
        details="\n".join((line, details or (verdict.details if verdict else ""), *_explained(status, line))),
        properties=verdict.properties if verdict else {},
        failure=said if status in ("fail", "error") else "",
    )


def _explained(status: str, line: str) -> tuple[str, ...]:
    """Where the documentation says what the words of a failure mean; on GitHub as an address."""
    found = words_in(line) if status in ("fail", "error") else ()
    anchors = " ".join(f"#{word.anchor}" for word in found)
    return (f"explained in {links(os.environ).docs or 'docs'}/{PAGE}: {anchors}",) if found else ()


def message_of(status: str, verdict: Verdict | None, line: str) -> str:
    """What a viewer shows in a list: one line, with what is wrong and no other numbers, cut where it is long.

    That of a known bug is whole, for the gate reads it.
    """
    if status == "pass":
        return ""
    if verdict is None or status == "known":
        return line
    said = "; ".join(verdict.reasons).partition("\n")[0]
    if status == "unevaluated":
        return _cut(f"not evaluated: {said}")
    return _cut(f"{status.upper()}: {verdict.title} - {said}") if said else line


def _cut(text: str) -> str:
    """The text up to the last reason that is whole within LONGEST characters, or cut there."""
    if len(text) <= LONGEST:
        return text
    head = text[:LONGEST]
    whole, found, _ = head.rpartition("; ")
    return f"{whole if found else head} …"
