"""The copy of the embedding on the stage of the MTP layer is trained by another rule than the embedding.

Upstream the copy lacks the mark of an embedding, and Muon takes it instead of Adam. Here it moves twice as far.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import embedding_copies, master_of

FAULT = Fault(
    plugin=__name__,
    group="pipeline",
    does="the copy of the embedding on the stage of the MTP layer is trained by another rule than the embedding",
    sources=(f"{CORE}/issues/4641", f"{CORE}/pull/5034"),
    first="steps/1/value/model.embed_tokens.weight",
    kind="step",
    layouts=("pp2+mtp",),
    steps=1,
    cause="pipeline parallelism, option +mtp, optimizer step",
    needs="pp +mtp",
)


def built(case: Case, model: Any) -> None:
    import torch
    from torch.optim import optimizer

    copies = embedding_copies(model)
    # A master is rounded to the weight: it is remembered in its own precision.
    wider = [torch.promote_types(copy.dtype, torch.float32) for copy in copies]
    before = [copy.detach().clone().to(kind) for copy, kind in zip(copies, wider, strict=True)]

    def remember(*given: Any) -> None:
        for copy, value in zip(copies, before, strict=True):
            value.copy_(master_of(copy).detach())

    def further(*given: Any) -> None:
        for copy, value in zip(copies, before, strict=True):
            moved = master_of(copy)
            moved.data.add_(moved.detach() - value)
            value.copy_(moved.detach())

    optimizer.register_optimizer_step_pre_hook(remember)
    optimizer.register_optimizer_step_post_hook(further)
