"""Numbers of a recipe that are measured by the full size, and what the stand-in has in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from validation.case.annotation import Value
from validation.case.case import Case
from validation.case.model import Model
from validation.case.setting_rules import CAPACITY, experts_are_filled_to_their_tokens
from validation.recipe.small import MOST_INSTANCES
from validation.recipe.standin import StandIn

INSTANCES, PADS = "ddp.num_distributed_optimizer_instances", "model.moe_pad_expert_input_to_capacity"


def of(name: str, value: Value, small: StandIn) -> float | None:
    """What the stand-in has for the value of a field; None for the value itself.

    A capacity factor keeps its ratio to experts / top-k, from which on no token is dropped: an expert has then as many places
    for each token as at full size. Several instances of the distributed optimizer are two.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if name == INSTANCES:
        return MOST_INSTANCES if value > MOST_INSTANCES else None
    if name != CAPACITY or value <= 0 or not (small.model.moe_layers and small.full.model.moe_layers):
        return None
    full, here = _enough(small.full.model), _enough(small.model)
    # Rounding must not make it less; a smaller one is refused at full size.
    found = here if value <= full else max(here, value * here / full)
    return None if found == value else found


def why(name: str, scaled: float | None, small: StandIn) -> str:
    """What the stand-in has in place of the value, and by which measure; nothing if it has the value itself."""
    if scaled is None:
        return ""
    if name == INSTANCES:
        return f"{scaled:g} in the stand-in"
    full, here = _enough(small.full.model), _enough(small.model)
    return f"{scaled:g} in the stand-in, whose experts / top-k are {here:g} and not {full:g}"


def unfit(at_full_size: Case, name: str, values: Mapping[str, Value]) -> str | None:
    """Why megatron-core cannot fill experts up to the capacity of a recipe at full size; None if it can, or need not."""
    if name != PADS:
        return None
    given = {field: values[field] for field in (CAPACITY, PADS) if values.get(field) is not None}
    training = at_full_size.training.with_settings(given)
    return experts_are_filled_to_their_tokens(replace(at_full_size, training=training))


def _enough(model: Model) -> float:
    """Places of an expert for each token that an even router would send it, from which on no token is dropped."""
    return model.n_routed_experts / model.num_experts_per_tok
