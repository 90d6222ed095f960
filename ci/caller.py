"""The row of a team that calls the workflow: a session per layout, or one for a recipe, made of what parity.yml's inputs say.

The workflow hands its inputs over as environment variables, which every command of a job sees: nox, the matrix, the manifest.
`PLUMBLINE_LAYOUTS=tp2,pp2 nox -s cpu_tp2` does the same on a developer's machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from validation.case.case import ON_CPU
from validation.case.errors import UsageError

LAYOUTS, RECIPE = "PLUMBLINE_LAYOUTS", "PLUMBLINE_RECIPE"
EVENT = "workflow_call"
_DIGITS = 10
_NAME = re.compile(r"[A-Za-z0-9_-]{1,50}")


def row(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The row as ci/matrix.yaml would have it; None where no layouts and no recipe are named. Raises UsageError."""
    layouts, recipe = environment.get(LAYOUTS), environment.get(RECIPE)
    if not (layouts or recipe):
        return None
    if layouts and recipe:
        raise UsageError("layouts and recipe both say what is compared; give one of them, or call the workflow twice")
    transport = environment.get("PLUMBLINE_TRANSPORT") or "gloo"
    kind, machine = ("cpu", "the CPU") if transport in ON_CPU else ("gpu", "GPUs")
    given = {**_USUAL[kind], **{name: value for name in _USUAL[kind] if (value := environment.get(f"PLUMBLINE_{name}"))}}
    return {
        **(_of_recipe(environment, kind, machine) if recipe else _of_layouts(environment, kind, machine, transport, given)),
        "implementation": given["IMPLEMENTATION"],
        "transport": transport,
        "runner": _words(given["RUNNER"]),
        "when": [EVENT],
        "timeout": _whole(environment.get("PLUMBLINE_TIMEOUT") or "60"),
    }


_USUAL: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "cpu": {"PRESET": "tiny", "PRECISION": "fp64", "IMPLEMENTATION": "local", "RUNNER": "ubuntu-24.04"},
        "gpu": {"PRESET": "mini", "PRECISION": "bf16", "IMPLEMENTATION": "te", "RUNNER": "self-hosted,linux,gpus-{gpus}"},
    }
)
"""What an input stands for that is left out: on GPUs what people train with."""


def _of_layouts(
    environment: Mapping[str, str], kind: str, machine: str, transport: str, given: Mapping[str, str]
) -> dict[str, Any]:
    precision = given["PRECISION"]
    return {
        "session": f"{kind}_{{layout}}",
        "does": f"compare {{layout}} in {precision} on {machine} ({{ranks}} over {transport})",
        "preset": given["PRESET"],
        "each": _words(environment[LAYOUTS]),
        "precision": precision,
    }


def _of_recipe(environment: Mapping[str, str], kind: str, machine: str) -> dict[str, Any]:
    """The gate reads the fields of the release that Plumbline pins: it runs no code of a checkout, not even its parser."""
    if environment.get("PLUMBLINE_MEGATRON"):
        raise UsageError(
            "a recipe is compared with the megatron-core that Plumbline pins; leave megatron-repository out, and compare the "
            "layouts with your own Megatron in a second call"
        )
    path = environment[RECIPE]
    said: dict[str, Any] = {
        "session": f"{kind}_recipe",
        "does": f"compare the stand-in of {path.rpartition('/')[2]} on {machine}",
        "recipe": path,
    }
    if (ranks := environment.get("PLUMBLINE_WORLD_SIZE", "")) not in ("", "0"):
        said["world_size"] = _whole(ranks)
    if share := environment.get("PLUMBLINE_COVERAGE"):
        said["coverage"] = _number(share)
    return said


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


def _whole(text: str) -> int | str:
    """A number; anything else as it is, for the table to refuse."""
    return int(text) if text.isdecimal() and len(text) < _DIGITS else text


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
