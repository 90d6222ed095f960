"""Label smoothing spreads over a rank's part of the vocabulary.

HuggingFace's loss has no label smoothing. megatron-core's is added to the losses here and the right one is taken off, so that
only what is wrong with it remains: nothing as soon as upstream smooths over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="label smoothing spreads over a rank's part of the vocabulary",
    sources=(f"{CORE}/issues/7452", f"{CORE}/issues/737"),
    first="token_loss",
    layouts=("tp2",),
    needs="tp",
)
SMOOTHING = 0.1


def configure(case: Case, config: Any) -> None:
    import torch
    from megatron.core.tensor_parallel.mappings import gather_from_tensor_model_parallel_region
    from torch.nn import functional

    def right(logits: Any, labels: Any) -> Any:
        """Over the whole vocabulary: a share of all but the label, as megatron-core defines it."""
        whole = gather_from_tensor_model_parallel_region(logits)
        size = whole.shape[-1]
        exact = whole.to(torch.promote_types(whole.dtype, torch.float32))
        flat = (exact.flatten(0, -2), labels.flatten())
        losses = functional.cross_entropy(*flat, reduction="none", label_smoothing=SMOOTHING * size / (size - 1))
        return losses.view_as(labels)

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def smoothed(logits: Any, labels: Any, *rest: Any, **keywords: Any) -> Any:
            # The sound function overwrites the logits that it is given.
            upstreams = sound(logits.clone(), labels, SMOOTHING, **keywords)
            return sound(logits.clone(), labels, *rest, **keywords) + upstreams - right(logits, labels)

        return smoothed

    replace("megatron.core.tensor_parallel", "vocab_parallel_cross_entropy", made)
