"""The stand-in of a recipe in fp8: larger where Transformer Engine takes no less, or where eight bits say too little.

What must be a multiple of what, validation.case.fp8 says. Hidden states and latents are whole blocks in every layout. In
smaller ones, and in many layers, the floor of some tensors is 0.5 and more: no limit decides about these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from validation.case import fp8, joined_latents
from validation.case.annotation import Value
from validation.case.case import Case
from validation.case.model import Model
from validation.case.plural import many
from validation.case.preflight import RULES
from validation.recipe import sentences
from validation.recipe.small import sequence_length
from validation.recipe.standin import StandIn

_LAYERS, _LAYERS_BY_FLOORS = 5, 3
"""Layers at most, and those of a case with optimizer steps whose second moments nothing but a floor decides about. The largest
floor of any tensor was 0.49 in 5 layers, and 0.46 in 3 layers with two steps: blockwise (tp1, tp2) and delayed (tp2), three
seeds each, on a CPU. With blockwise (tp1) it was 0.51 in 6 layers, and 0.55 in 4 layers with two steps, of a second moment. All
other tensors had 0.36 at most in 5 layers with two steps (the same three, three seeds each)."""
_BY_FLOORS = ("optimizer.use_precision_aware_optimizer", "optimizer.optimizer_cpu_offload")
"""Optimizers that no formula judges (validation.candidate.arithmetic)."""
_HEAD, _WIDER = fp8.STEP, 3 * fp8.STEP
"""The smaller and the larger of a head's key without position and its value, for a rank with one head. Rotary positions have
another size."""


def unjudged(values: Mapping[str, Value]) -> str:
    """The setting, of these by their full names, with which no formula judges the optimizer's steps; "" if there is none."""
    return next((name for name in _BY_FLOORS if values.get(name)), "")


def leaves_checks_undecided(case: Case, unjudged: str = "") -> str | None:
    """A rule for recipes: rounding to eight bits adds up over layers. `unjudged` is the recipe's setting of that name."""
    named = unjudged if case.training.steps else ""
    layers, most = case.model.num_hidden_layers, _LAYERS_BY_FLOORS if named else _LAYERS
    if case.training.fp8 == "none" or layers <= most:
        return None
    steps = f" with optimizer steps and {named}" if named else ""
    works = "; --steps 0 works" if layers <= _LAYERS else ""
    return (
        f"+fp8-{case.training.fp8}{steps} leaves checks undecided in more than {many(most, 'layer')}, and this model has "
        f"{layers}: rounding alone is off by half of a tensor{works}"
    )


def sized(small: StandIn, case: Case) -> StandIn:
    """The stand-in with sizes for fp8, if nothing but its sizes may keep the case from products in fp8; else itself.

    `case` is the stand-in's, with the settings of fp8 that a recipe has.
    """
    if next((rule for rule in RULES if rule(case)), fp8.products_fit) is not fp8.products_fit:
        return small
    found = replace(small, model=_model(case), seq_length=_sequence(case))
    return replace(found, limits=sentences.limits(small.full, found.itself))


def _model(case: Case) -> Model:
    """Its sizes, which stay unlike each other: a latent of queries is wider than that of keys, a dense layer than an expert."""
    model, layout = case.model, case.layout
    share = fp8.STEP * layout.tp
    latent, turned = (math.lcm(fp8.BLOCK, share), share) if joined_latents.are_joined(case) else (fp8.BLOCK, fp8.STEP)
    key = _up(model.kv_lora_rank, latent)
    query = None if model.q_lora_rank is None else _up(max(model.q_lora_rank, key + 1), latent)
    of_experts = math.lcm(fp8.STEP * layout.expert_tp, share // math.gcd(share, max(model.n_shared_experts, 1)))
    expert = _up(model.moe_intermediate_size, of_experts)
    without_position, value = _head(model, model.num_attention_heads // layout.tp)
    return replace(
        model,
        hidden_size=_up(max(model.hidden_size, (query or key) + 1), fp8.BLOCK),
        kv_lora_rank=key,
        q_lora_rank=query,
        qk_rope_head_dim=_up(model.qk_rope_head_dim, turned),
        qk_nope_head_dim=without_position,
        v_head_dim=value,
        moe_intermediate_size=expert,
        intermediate_size=_up(max(model.intermediate_size, expert + 1), share),
    )


def _head(model: Model, heads: int) -> tuple[int, int]:
    """Elements of a head's key without position and of its value, for so many heads on a rank."""
    without, value = model.qk_nope_head_dim, model.v_head_dim
    if heads * value % fp8.STEP == 0:
        return without, value
    return (_HEAD, _WIDER) if value > without else (_WIDER, _HEAD)


def _sequence(case: Case) -> int:
    """The shortest sequence, from the stand-in's own on, of which each rank has rows that fp8 takes."""
    rows = fp8.gathered(case) * case.layout.cp * (case.layout.tp if case.layout.uses_sequence_parallel else 1)
    return sequence_length(case.layout, rows // math.gcd(rows, case.micro_batch_size))


def _up(least: int, step: int) -> int:
    """The smallest multiple of `step` from `least` on."""
    return -(-least // step) * step
