"""Made-up cases that are sound, wrong from some check on, or broken, and their diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ci.diagnosis import Diagnosis, diagnose
from ci.junit import Check, Suite
from tests.ci.runs import check, suite

NORM, OUTPUT, ROUTED = "Layer 0 Input Norm Output", "Layer 0 Attention Output", "Layer 1 Routed Experts Output"
WEIGHT, GRADIENT, STEP = "Layer 0 MLP Gate Weight", f"{OUTPUT} Gradient", "Step 1 Gradient Norm"
TITLES = {
    WEIGHT: "weights",
    NORM: "layers",
    OUTPUT: "mla",
    ROUTED: "moe",
    GRADIENT: "probe_gradients",
    STEP: "steps",
}
"""A check of each kind, in the flow of data."""


def sound(arrangement: str, **properties: str) -> Suite:
    """A case in which all is well."""
    return _case(arrangement, {title: check(title, component=component) for title, component in TITLES.items()}, properties)


def wrong(arrangement: str, title: str = OUTPUT, *, of: Mapping[str, str] | None = None, **properties: str) -> Suite:
    """A case that fails at one check, which has these properties, and in all that follows; `of` are those of the case."""
    after, checks = False, {}
    for name, module in TITLES.items():
        after |= name == title
        checks[name] = check(name, "fail" if after else "pass", module, **(properties if name == title else {}))
    return _case(arrangement, checks, of or {})


def _case(arrangement: str, checks: dict[str, Check], properties: Mapping[str, str]) -> Suite:
    made = suite(arrangement, tuple(checks.values()))
    name = f"{made.name}-{'-'.join(properties.values())}" if properties else made.name
    return replace(made, name=name, properties={**made.properties, **properties})


def told(*suites: Suite) -> Diagnosis:
    """The diagnosis of something that fails."""
    found = diagnose(suites)
    assert found is not None
    assert found.sentence.isprintable()
    return found


def broken(arrangement: str, code: str = "4", says: str = "rank 1 was killed by SIGKILL in 'forward'") -> Suite:
    """A case whose run did not finish."""
    run = replace(check("Every rank finishes", "error", "run"), message=f"ERROR: Every rank finishes - {says}\nstacks")
    rest = replace(check(OUTPUT, "error"), message="ERROR: not decided, for the run did not finish")
    made = suite(arrangement, (run, rest))
    return replace(made, properties={**made.properties, "broken": code})
