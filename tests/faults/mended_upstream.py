"""A plugin: a fault that upstream's own code makes, with that code mended. Its argument is the fault's id.

The mends are what the pull requests upstream do (#7466, #7481).
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from validation.faults.catalogue import r19, t10
from validation.faults.inject import replace


def _smoothed_over_the_whole_vocabulary() -> None:
    from megatron.core.tensor_parallel.mappings import gather_from_tensor_model_parallel_region

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def losses(logits: Any, labels: Any, label_smoothing: float = 0.0, **keywords: Any) -> Any:
            if not label_smoothing:
                return sound(logits, labels, **keywords)
            whole = gather_from_tensor_model_parallel_region(logits).log_softmax(-1)
            share = label_smoothing * whole.shape[-1] / (whole.shape[-1] - 1)
            return -(1 - share) * whole.gather(-1, labels[..., None])[..., 0] - share * whole.mean(-1)

        return losses

    replace("megatron.core.tensor_parallel", "vocab_parallel_cross_entropy", made)


def _counted_before_the_sum() -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*, routing_map: Any, topk: int, with_padding_mask: bool = False, **keywords: Any) -> Any:
            own = routing_map.sum() / topk
            found = sound(routing_map=routing_map, topk=topk, with_padding_mask=with_padding_mask, **keywords)
            return (found[0], own if with_padding_mask else found[1], found[2])

        return counted

    replace("megatron.core.transformer.moe.router", "get_tokens_per_expert_and_token_count", made)


MENDED = {"T10": (t10, _smoothed_over_the_whole_vocabulary), "R19": (r19, _counted_before_the_sum)}


def plugin(argument: str) -> Any:
    """The fault's functions behind its mend."""
    fault, mend = MENDED[argument]

    def configure(case: Any, config: Any) -> None:
        mend()
        fault.configure(case, config)

    return SimpleNamespace(configure=configure, **{word: getattr(fault, word) for word in ("built",) if hasattr(fault, word)})
