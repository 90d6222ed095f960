"""The last layer is lost where stages are uneven.

30 layers become 28, 80 become 64: nobody loads what nobody has.
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
    does="the last layer is lost where stages are uneven",
    sources=(
        f"{CORE}/issues/1304",
        f"{CORE}/issues/468",
    ),
    first="weights/model.layers.3.input_layernorm.weight",
    layouts=("pp2",),
    layers=4,
    needs="pp",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., int]) -> Callable[..., int]:
        def fewer(config: Any, vp_stage: Any = None, pp_rank: Any = None) -> int:
            return sound(config, vp_stage, pp_rank) - (parallel_state.is_pipeline_last_stage())

        return fewer

    from megatron.core import parallel_state

    replace("megatron.core.transformer.transformer_block", "get_num_layers_to_build", made)
    replace("megatron.core.models.gpt.gpt_layer_specs", "get_num_layers_to_build", made)
