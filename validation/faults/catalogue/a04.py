"""Halves are rotated in place of interleaved pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="halves are rotated in place of interleaved pairs",
    sources=(
        "https://github.com/vllm-project/vllm/issues/26995",
        f"{CORE}/pull/3026",
    ),
    first="layers.0.attention.query",
)


def configure(case: Case, config: Any) -> None:
    import torch

    def halves(sound: Callable[..., Any]) -> Callable[..., Any]:
        def rotated(tensor: Any, *rest: Any, **keywords: Any) -> Any:
            return sound(torch.stack(tensor.chunk(2, dim=-1), dim=-1).flatten(-2), *rest, **keywords)

        return rotated

    replace("megatron.core.transformer.multi_latent_attention", "apply_rotary_pos_emb", halves)
