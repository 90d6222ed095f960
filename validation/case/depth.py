"""How far the ranks of a case go: no further than the checks that are made of it need. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from validation.case import latent_norms
from validation.case.case import Case
from validation.case.probes import observed

WEIGHTS, FORWARD, BACKWARD, ALL = "weights", "forward", "backward", ""
"""What the ranks end with: the weights that they hold, the forward pass, the backward pass, the optimizer's steps."""
_ORDER = (WEIGHTS, FORWARD, BACKWARD, ALL)
_KNOWN_BACKWARD = ("moe.balancing", "mtp.loss")
"""Kinds of probes that are taken in when the backward pass has ended."""


def needed(case: Case, names: Iterable[str]) -> str:
    """How far the ranks must go for tensors of these names in their reports; an empty name needs no tensor.

    Layer by layer both passes are one. In fp8 the forward pass leaves scales that the backward pass goes on with, and isolated
    modules are compared in both: neither is cut in two.
    """
    if case.training.stream:
        return ALL
    found = max((_of(case, name) for name in names), key=_ORDER.index, default=WEIGHTS)
    whole = case.isolated or case.training.fp8 != "none"
    return BACKWARD if whole and found == FORWARD else found


def _of(case: Case, name: str) -> str:
    probe = observed(case).get(name)
    if probe is not None:
        return BACKWARD if probe.kind in _KNOWN_BACKWARD else FORWARD
    kind = name.partition("/")[0]
    if kind == latent_norms.NAME:
        return WEIGHTS
    return {"": WEIGHTS, "weights": WEIGHTS, "probe_gradients": BACKWARD, "gradients": BACKWARD}.get(kind, ALL)


def serving(case: Case) -> tuple[Case, ...]:
    """The cases whose reference has all that this one needs: those that go as far or further, the furthest first."""
    return tuple(replace(case, upto=upto) for upto in reversed(_ORDER[_ORDER.index(case.upto) :]))
