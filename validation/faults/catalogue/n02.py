"""The latent norms are left out of the model.

Their weights are then loaded by nobody, which is seen before the first product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="norm",
    does="the latent norms are left out of the model",
    sources=(f"{CORE}/pull/3026",),
    first="weights/model.layers.0.self_attn.q_a_layernorm.weight",
)


def configure(case: Case, config: Any) -> None:
    from megatron.core.transformer.identity_op import IdentityOp

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def without(*given: Any) -> Any:
            found = sound(*given)
            for each in found.layer_specs:
                attention = each.submodules.self_attention.submodules
                attention.q_layernorm = attention.kv_layernorm = IdentityOp
                if case.uses_te:  # its projections norm what they are given
                    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear

                    attention.linear_q_up_proj = attention.linear_kv_up_proj = TEColumnParallelLinear
            return found

        return without

    replace("validation.candidate.spec", "_te" if case.uses_te else "_with_norms", made)
