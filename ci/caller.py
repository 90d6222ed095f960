"""The row of a team that calls the workflow: a session per layout, made of what parity.yml's inputs say.

The workflow hands its inputs over as environment variables, which every command of a job sees: nox, the matrix, the manifest.
`PLUMBLINE_LAYOUTS=tp2,pp2 nox -s cpu_tp2` does the same on a developer's machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from validation.case.case import ON_CPU
from validation.case.errors import UsageError

LAYOUTS = "PLUMBLINE_LAYOUTS"
EVENT = "workflow_call"
_DIGITS = 10
_NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")


def row(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The row as ci/matrix.yaml would have it; None where no layouts are named."""
    if not environment.get(LAYOUTS):
        return None
    transport = environment.get("PLUMBLINE_TRANSPORT") or "gloo"
    kind, machine = ("cpu", "the CPU") if transport in ON_CPU else ("gpu", "GPUs")
    precision = environment.get("PLUMBLINE_PRECISION") or "fp64"
    return {
        "session": f"{kind}_{{layout}}",
        "does": f"compare {{layout}} in {precision} on {machine} ({{ranks}} over {transport})",
        "preset": environment.get("PLUMBLINE_PRESET") or "tiny",
        "each": _words(environment[LAYOUTS]),
        "precision": precision,
        "implementation": environment.get("PLUMBLINE_IMPLEMENTATION") or "local",
        "transport": transport,
        "runner": _words(environment.get("PLUMBLINE_RUNNER") or "ubuntu-24.04"),
        "when": [EVENT],
        "timeout": _minutes(environment.get("PLUMBLINE_TIMEOUT") or "60"),
    }


def prefix(environment: Mapping[str, str]) -> str:
    """What the call's name puts in front of the names of its artifacts, so that those of another call are none of its.

    No name has a dot, and no artifact of a call without a name begins with `plumbline-`: what one call looks for,
    `PREFIXresults-*`, matches nothing of another. The workflow has the same expression. Raises UsageError.
    """
    name = environment.get("PLUMBLINE_NAME", "")
    if name and not _NAME.fullmatch(name):
        raise UsageError(f"name {name!r}: give at most 50 letters, digits, - and _")
    return f"plumbline-{name}." if name else ""


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _minutes(text: str) -> int | str:
    """A number; anything else as it is, for the table to refuse."""
    return int(text) if text.isdecimal() and len(text) < _DIGITS else text
