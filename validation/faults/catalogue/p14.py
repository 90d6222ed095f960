"""The copy of the embedding on the stage of the MTP layer is trained by another rule than the embedding.

Upstream the copy lacks the mark of an embedding, and Muon takes it instead of Adam. Here it moves twice as far.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import embedding_copies

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
    from torch.optim import optimizer

    copies = embedding_copies(model)
    before = [copy.detach().clone() for copy in copies]

    def remember(*given: Any) -> None:
        for copy, value in zip(copies, before, strict=True):
            value.copy_(copy.detach())

    def further(*given: Any) -> None:
        for copy, value in zip(copies, before, strict=True):
            copy.data.add_(copy.detach() - value)
            value.copy_(copy.detach())

    optimizer.register_optimizer_step_pre_hook(remember)
    optimizer.register_optimizer_step_post_hook(further)
