"""Rotary rows are taken apart by the converter though the model does it."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="rotary rows are taken apart by the converter though the model does it",
    sources=("https://github.com/vllm-project/vllm/issues/26995",),
    first="weights/model.layers.0.self_attn.q_b_proj.weight",
)


def built(case: Case, model: Any) -> None:
    def apart(loaded: Loaded) -> None:
        heads = loaded.part("model.layers.0.self_attn.q_b_proj.weight").unflatten(0, (case.model.num_attention_heads, -1))
        rows = heads[:, case.model.qk_nope_head_dim :]
        rows.copy_(rows.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2).clone())
        shared = loaded.part("model.layers.0.self_attn.kv_a_proj_with_mqa.weight")[case.model.kv_lora_rank :]
        shared.copy_(shared.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1).clone())

    after_loading(apart)
