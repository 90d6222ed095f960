"""Recomputed layers are given the input of the first one.

TTrace's row about activation recomputation; the first forward pass is right. What reaches the output of a layer and of its
experts does not depend on what is recomputed within it; the router's weights are the first that do.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.case.errors import UsageError
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layer

FAULT = Fault(
    plugin=__name__,
    group="pipeline",
    does="recomputed layers are given the input of the first one",
    sources=(f"{CORE}/pull/290",),
    first="probe_gradients/layers.{moe}.moe.router.weights",
    kind="backward",
    layouts=("single+full",),
    cause="option +full",
)


def built(case: Case, model: Any) -> None:
    import torch

    if case.training.stream:
        raise UsageError("P05 is of two layers of one model, and --stream has one at a time; leave out --stream")
    seen: list[Any] = []

    def remember(module: Any, given: Any, keywords: Any) -> None:
        if not torch.is_grad_enabled():
            seen.append(keywords.get("hidden_states", given[0] if given else None).detach())

    def again(module: Any, given: Any, keywords: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        hidden = keywords.get("hidden_states", given[0] if given else None)
        wrong = hidden + (seen[-1] - hidden).detach()
        return ((wrong, *given[1:]), keywords) if given else (given, {**keywords, "hidden_states": wrong})

    layer(model, 0).register_forward_pre_hook(remember, with_kwargs=True)
    layer(model, 1).register_forward_pre_hook(again, with_kwargs=True)
