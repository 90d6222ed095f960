"""Made-up runs: the checks of a real case by their titles, with the numbers that a test wants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from ci.junit import Check, Suite
from validation.case.arrangement import parse
from validation.case.case import Case
from validation.case.parameters import parameters
from validation.case.preset import preset
from validation.case.probes import observed
from validation.case.steps import stepped
from validation.case.training import Training

NUMBERS = {
    "max_diff": "1.7763568394002505e-15",
    "avg_diff": "2.240625198353521e-16",
    "rel_error": "5.917493725343546e-16",
    "projection": "0.9999999999999998",
    "tolerance": "1e-10",
    "worst_index": "[2, 11, 15]",
    "worst_rank": "0",
    "ranks": "0,1",
    "elements": "12288",
}
WRONG = {**NUMBERS, "max_diff": "2.185103406497505", "rel_error": "0.69582202054417", "wrong": "rank 0 [0:4, 0:24, 0:64]"}
SAYS = "relative error 6.96e-01 > 1e-10; scaled by 0.493543; worst at [2, 11, 15] on rank 0"
BUG = "known upstream bug: the gradient of the shared rotary key is not reduced (https://github.com/NVIDIA/Megatron-LM/issues/1699)"


@cache
def case(arrangement: str) -> Case:
    """A case of the preset tiny."""
    base = preset("tiny")
    layout, training, mtp = parse(arrangement, Training(steps=2))
    model = base.model if mtp is None else replace(base.model, num_nextn_predict_layers=mtp)
    return Case(
        preset=base.name,
        model=model,
        layout=layout,
        precision="fp64",
        implementation="local",
        transport="gloo",
        seed=1234,
        batch_size=base.batch_size,
        micro_batch_size=1,
        seq_length=base.seq_length,
        training=training,
    )


def titles(of: Case) -> Iterator[tuple[str, str]]:
    """Component and title of every check that compares a tensor, as validation/checks names them."""
    known, probes = parameters(of.model).values(), observed(of).values()
    yield from (("weights", parameter.title) for parameter in known)
    yield from (("mla" if "attention" in probe.kind else "layers", probe.title) for probe in probes)
    yield from (("probe_gradients", f"{probe.title} Gradient") for probe in probes if probe.has_gradient)
    yield from (("gradients", f"{parameter.title} Gradient") for parameter in known if parameter.trained)
    yield from (("steps", one.title) for one in stepped(of).values())


def check(title: str = "Layer 0 Attention Output", status: str = "pass", component: str = "mla", **properties: str) -> Check:
    """One check, with the numbers of its status."""
    numbers = {**(NUMBERS if status == "pass" else WRONG), **properties}
    line = f"{status.upper()}: {title} - " + {"known": BUG}.get(status, SAYS)
    return Check(component, title, status, 0.0001, "" if status == "pass" else line, line, numbers)


def suite(arrangement: str = "tp2", checks: tuple[Check, ...] | None = None, status: str = "pass") -> Suite:
    """The testsuite of a case: these checks, or all that it has, each with one status."""
    of = case(arrangement)
    found = tuple(check(title, status, component) for component, title in titles(of)) if checks is None else checks
    properties = {
        "preset": "tiny",
        "precision": "fp64",
        "implementation": "local",
        "transport": "gloo",
        "arrangement": of.arrangement,
        "ranks": str(of.layout.ranks),
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "megatron-core": "0.16.1",
        "command": "python -m validation run --layouts tp2",
        "reproduce": f"python -m validation run --preset tiny --layouts {of.arrangement}",
    }
    return Suite(of.name, found, properties, 1.5, "2026-01-31T12:00:00")
