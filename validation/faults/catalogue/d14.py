"""A bfloat16 model takes its rotary frequencies along.

What model.bfloat16() does to the toy models that peers make; the error of an angle grows with its position.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import BRIDGE, Fault
from validation.faults.inject import layers, rounded

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="a bfloat16 model takes its rotary frequencies along",
    sources=(f"{BRIDGE}/blob/main/tests/functional_tests/test_groups/models/deepseek/test_deepseek_conversion.py",),
    first="layers.0.attention.query",
    seq_length=512,
    precision="bf16",
    needs="bf16",
)


def built(case: Case, model: Any) -> None:
    for found in layers(model):
        rotary = found.self_attention.rotary_pos_emb
        rotary.inv_freq_extra, rotary.inv_freq_inter = rounded(rotary.inv_freq_extra), rounded(rotary.inv_freq_inter)
        type(rotary).forward.cache_clear()
