"""A float32 checkpoint passes through bfloat16 when it is converted."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import Loaded, after_loading, rounded

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="a float32 checkpoint passes through bfloat16 when it is converted",
    sources=("https://github.com/ISEEKYAN/mbridge/blob/main/mbridge/core/bridge.py",),
    first="weights/model.embed_tokens.weight",
    precision="fp32",
    cause="weights",
    absent=(("bf16", "the weights of a bf16 model are bf16"),),
)


def built(case: Case, model: Any) -> None:
    def short(loaded: Loaded) -> None:
        for name in loaded.names():
            for _, view in loaded.parts(name):
                view.copy_(rounded(view))

    after_loading(short)
