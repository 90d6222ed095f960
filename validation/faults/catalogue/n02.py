"""The latent norms are left out of the model.

Their weights are then loaded by nobody, which is seen before the first product.
"""

from __future__ import annotations

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

    replace("validation.candidate.spec", "LatentRMSNorm", lambda sound: IdentityOp)
