"""A manifest and results that are green, for tests to spoil in one place each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ci import junit
from ci.expected import Excuse, Expected, Manifest, Tensor, save
from ci.folder import Results
from ci.gate import Judgement, judged
from ci.junit import Check, Suite
from ci.outcomes import known_bugs
from ci.reasons import Origin

COMMIT, OTHER = "a" * 40, "b" * 40
FILE = "tiny-tp2-fp64-local-gloo.xml"
MISSING = "is missing: no run has left it, or nobody has handed it over"
BUG = f"known upstream bug: {known_bugs()[0]['what']} ({known_bugs()[0]['link']})"
MEASURED = {
    "max_diff": "3e-15",
    "avg_diff": "1e-15",
    "worst_index": "[1, 5]",
    "worst_rank": "1",
    "ranks": "0,1",
    "elements": "24",
}
NUMBERS = {**MEASURED, "rel_error": "2.5e-15", "tolerance": "1e-10"}
OF_BUG = {**MEASURED, "tolerance": "1e-10", "rel_error": "0.4", "rel_error_without": "3e-15", "known": "a-bug"}
PROPERTIES = {
    "preset": "tiny",
    "precision": "fp64",
    "implementation": "local",
    "transport": "gloo",
    "layout": "tp2",
    "arrangement": "tp2",
    "ranks": "2",
    "case": "0123456789abcdef",
}
REQUIRED = ("torch>=2.13.0", "megatron-core==0.16.1")
CHECKS = (
    Check("run", "Every rank finishes", "pass"),
    Check("mla", "Layer 0 Query", "pass", properties=NUMBERS),
    Check("mla", "Layer 0 Key", "pass", properties=NUMBERS),
    Check("gradients", "Layer 0 Gradient", "known", message=f"KNOWN: {BUG}", properties=OF_BUG),
)
SUITE = Suite(
    name="tiny-tp2-fp64-local-gloo",
    checks=CHECKS,
    properties={
        **PROPERTIES,
        "commit": COMMIT,
        "dirty": "false",
        "run": "2026-01-31T12:00:00.000+00:00 a",
        "torch": "2.13.0+cpu",
        "megatron-core": "0.16.1",
        "rank_0_place": "tp 0",
        "rank_1_place": "tp 1",
    },
    seconds=1.5,
)
EXPECTED = Expected(
    file=FILE,
    name=SUITE.name,
    ranks=2,
    properties=PROPERTIES,
    requires=REQUIRED,
    checks=tuple((check.component, check.name) for check in CHECKS),
    tensors={(check.component, check.name): Tensor(24, 1e-10) for check in CHECKS[1:]},
    excuses=(Excuse(known_bugs()[0]["what"], "<=0.16.1", frozenset({("gradients", "Layer 0 Gradient")}), 5.0),),
)
MANIFEST = Manifest((EXPECTED,), COMMIT, "false")
ORIGIN = Origin(COMMIT)


def limited(limit: float, *checks: int) -> Expected:
    """The testsuite of the manifest with another limit of these checks, of all that compare a tensor if none is named."""
    names = [EXPECTED.checks[at] for at in checks or range(1, len(CHECKS))]
    return replace(EXPECTED, tensors={**EXPECTED.tensors, **dict.fromkeys(names, Tensor(24, limit))})


Change = Callable[[Suite], Suite]


def with_properties(**changed: str | None) -> Change:
    """The suite with these properties, `_` for `-` in their names; None takes one away."""
    named = {name.replace("_", "-") if name.startswith("megatron") else name: value for name, value in changed.items()}

    def change(suite: Suite) -> Suite:
        found = {**suite.properties, **named}
        return replace(suite, properties={name: value for name, value in found.items() if value is not None})

    return change


def with_check(number: int, **changed: object) -> Change:
    """The suite with something else in one of its checks."""

    def change(suite: Suite) -> Suite:
        checks = list(suite.checks)
        checks[number] = replace(checks[number], **changed)  # type: ignore[arg-type]
        return replace(suite, checks=tuple(checks))

    return change


def with_checks(*checks: Check) -> Change:
    """The suite with these checks."""
    return lambda suite: replace(suite, checks=checks)


def verdict(folder: Path, manifest: Manifest = MANIFEST, origin: Origin = ORIGIN, share: float | None = None) -> Judgement:
    """The gate's, on what is in the folder."""
    return judged(manifest, Results(folder), origin, share)


def of_changed(folder: Path, change: Change) -> list[str]:
    """The gate's sentences about the suite with one thing changed."""
    junit.write(folder / FILE, change(SUITE))
    return [why for where, why in verdict(folder).reasons]


def command_line(folder: Path, anew: bool = True) -> list[str]:
    """Options for a green gate: a manifest, and results beside it, which are made or are there already."""
    if anew:
        save(folder / "manifest.json", MANIFEST)
        junit.write(folder / "results" / FILE, SUITE)
    return ["--manifest", str(folder / "manifest.json"), "--results", str(folder / "results")]
