"""The rotary rows of the KV down-projection are shifted."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import PAI, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="the rotary rows of the KV down-projection are shifted",
    sources=(
        f"{PAI}/pull/425",
        f"{PAI}/pull/254",
    ),
    first="weights/model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
)


def built(case: Case, model: Any) -> None:
    def shifted(loaded: Loaded) -> None:
        rows = loaded.part("model.layers.0.self_attn.kv_a_proj_with_mqa.weight")[case.model.kv_lora_rank :]
        rows.copy_(rows.roll(case.model.qk_rope_head_dim // 2, 0).clone())

    after_loading(shifted)
