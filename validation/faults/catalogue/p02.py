"""Chunks of an interleaved pipeline have each other's layers.

Every layer is loaded with the weights of its number; it runs at the wrong time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="pipeline",
    does="chunks of an interleaved pipeline have each other's layers",
    sources=(
        f"{CORE}/commit/a77a883e24",
        f"{CORE}/issues/1584",
    ),
    first="layers.0.input_norm",
    layouts=("pp2vpp2",),
    layers=4,
    cause="virtual pipeline",
    needs="vpp",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., int]) -> Callable[..., int]:
        def offset(config: Any, vp_stage: Any = None, pp_rank: Any = None) -> int:
            return sound(config, vp_stage, pp_rank) ^ 1  # stages of one layer: 0 and 1 change places, 2 and 3 do

        return offset

    replace("megatron.core.transformer.transformer_layer", "get_transformer_layer_offset", made)
    replace("megatron.core.models.gpt.gpt_layer_specs", "get_transformer_layer_offset", made)
