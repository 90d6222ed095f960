"""Cos and sin are scaled by the mscale of mscale_all_dim in place of the ratio of both."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="cos and sin are scaled by the mscale of mscale_all_dim in place of the ratio of both",
    sources=("https://github.com/ggml-org/llama.cpp/pull/7118",),
    first="layers.0.attention.query",
)


def configure(case: Case, config: Any) -> None:
    import importlib

    mscale = vars(importlib.import_module("megatron.core.models.common.embeddings.yarn_rotary_pos_embedding"))[
        "_yarn_get_mscale"
    ]
    replace(
        "megatron.core.models.common.embeddings.yarn_rotary_pos_embedding",
        "_yarn_get_concentration_factor",
        lambda sound: lambda scale, one, all_dim: mscale(scale, all_dim),
    )
