"""Both down-projections of the latents as one product: `mla_down_proj_fusion`, since megatron-core 0.17.

The spec for Transformer Engine takes the norm before them in, too. Under tensor parallelism each rank has its part of the rows
of both, and the ranks gather what comes out. No torch.
"""

from __future__ import annotations

from validation.case.case import Case

FIELD = "mla_down_proj_fusion"
PROJECTION = "linear_qkv_down_proj"
"""What attention calls the one projection."""


def are_joined(case: Case) -> bool:
    """Whether one product makes both latents."""
    return case.training.effective("model").get(FIELD) is True


def with_norm(case: Case) -> bool:
    """Whether the norm before it is a part of the same module: what it returns is never a tensor."""
    return are_joined(case) and case.uses_te


def can_be_joined(case: Case) -> str | None:
    """Attention must have both down-projections, and a spec that reads the field."""
    if not are_joined(case):
        return None
    model, said = case.model, f"{case.arrangement}: model.{FIELD}=true"
    if model.sparse:
        return f"{said} is of attention to all keys, and this model's is sparse; leave it out"
    if model.q_lora_rank is None:
        return f"{said} joins the down-projections of query and key, and this model has no q_lora_rank; leave it out"
    if case.implementation == "local-stock":
        return f"{said} is not read by Megatron-Core's own local spec; --implementation local or te has it, or leave it out"
    return None


RULES = (can_be_joined,)
