"""Known upstream bugs of optimizer steps, taken out of a rank (validation.candidate.mends says how, and holds the others)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from validation.case.case import Case


def scalers_see_every_overflow(case: Case, tokens: Callable[[], int]) -> None:
    """All loss scales of a chain are told, as often as they are told anything, whether any of them has found an infinity."""
    chained = vars(importlib.import_module("megatron.core.optimizer.optimizer"))["ChainedOptimizer"]
    prepare = chained.prepare_grads

    def prepared(self: Any) -> bool:
        scalers = [part.grad_scaler for part in self.chained_optimizers]
        told: list[list[bool]] = [[] for _ in scalers]
        for scaler, each in zip(scalers, told, strict=True):
            scaler.update = each.append
        found: bool = prepare(self)
        for scaler, each in zip(scalers, told, strict=True):
            del scaler.update  # the class's own is there again
            for _ in each:
                scaler.update(found)
        return found

    chained.prepare_grads = prepared


def duplicated_projections_counted_once(case: Case, chunk: Any) -> None:
    """Down-projections that every rank holds whole lose the mark of a share, by which each rank counts them in the norm."""
    attentions = (module for module in chunk.modules() if hasattr(module, "kv_layernorm"))
    for attention in attentions:
        projections = [attention.linear_kv_down_proj, *([attention.linear_q_down_proj] if case.model.q_lora_rank else [])]
        for projection in projections:
            if getattr(projection, "parallel_mode", "") is None:
                projection.weight.tensor_model_parallel = False


def experts_counted_everywhere(case: Case, chunk: Any) -> None:
    """Experts' weights have the mark of a share, as Transformer Engine gave it until 2.12: each rank counts its own."""
    for experts in (module for module in chunk.modules() if hasattr(module, "num_gemms")):
        for parameter in experts.parameters(recurse=False):
            parameter.tensor_model_parallel = True
