"""Norms compute in bfloat16 in place of float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import TE, Fault
from validation.faults.inject import layers

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="norms compute in bfloat16 in place of float32",
    sources=(f"{TE}/issues/1132",),
    first="layers.0.input_norm",
    unseen="It rounds no more than HuggingFace's own runs in bfloat16 differ by (0.57 times the floor where it begins).",
    precision="bf16",
)


def built(case: Case, model: Any) -> None:
    import torch

    def short(module: Any) -> Callable[..., Any]:
        def forward(tensor: Any) -> Any:
            return tensor * torch.rsqrt(tensor.pow(2).mean(-1, keepdim=True) + module.eps) * module.weight

        return forward

    for found in layers(model):
        found.input_layernorm.forward = short(found.input_layernorm)
