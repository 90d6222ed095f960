"""How large the numbers of a model may be: beyond this they are mistakes, and are refused before anything is made of them."""

from __future__ import annotations

import math
from dataclasses import fields

from validation.case.errors import UsageError
from validation.case.model import Model
from validation.case.plural import many
from validation.case.strangers import quoted, shown

_USUAL = 1 << 24
_LARGEST = {
    "hidden_size": 1 << 20,
    "num_hidden_layers": 1 << 10,
    "first_k_dense_replace": 1 << 20,
    "num_attention_heads": 1 << 16,
    "n_routed_experts": 1 << 13,
    "num_experts_per_tok": 1 << 13,
    "n_group": 1 << 13,
    "topk_group": 1 << 13,
    "n_shared_experts": 1 << 10,
    "num_nextn_predict_layers": 1 << 6,
    "kv_lora_rank": 1 << 20,
    "q_lora_rank": 1 << 20,
    "qk_nope_head_dim": 1 << 16,
    "qk_rope_head_dim": 1 << 16,
    "v_head_dim": 1 << 16,
    "max_position_embeddings": 1 << 31,
    "original_max_position_embeddings": 1 << 22,
}
"""The largest of each that Plumbline takes, many times what any model has."""
MOST_EXPERTS = 1 << 18
"""Of all layers together: each is three tensors of the checkpoint. Kimi K2 has 23 thousand."""
_LARGEST_FLOAT = 1e30


def check_numbers(model: Model, source: str) -> None:
    """Raises UsageError, naming the folder `source`, for a number of its config.json that is none or that no model has."""
    for field in fields(model):
        value, kind = getattr(model, field.name), str(field.type)
        wrong = None if value is None and "None" in kind else _wrong(value, kind)
        if wrong is not None:
            raise UsageError(f"{source}: {field.name} in config.json is {quoted(value)}; {wrong}")
    check_sizes(model, f"{source}: ", " in config.json")


def check_sizes(model: Model, before: str = "", where: str = "") -> None:
    """Raises UsageError for a number that no model has: memory would be taken for it, or time, before anything is computed."""
    for field in fields(model):
        value = getattr(model, field.name)
        most = _LARGEST.get(field.name, _USUAL) if str(field.type).startswith("int") else _LARGEST_FLOAT
        if isinstance(value, (int, float)) and abs(value) > most and value != math.inf:
            raise UsageError(f"{before}{field.name}{where} is {shown(value)}; no model has more than {most}")
    layers = len(model.expert_blocks)
    if model.n_routed_experts * layers > MOST_EXPERTS:
        raise UsageError(
            f"{before}n_routed_experts{where} is {model.n_routed_experts}, in each of {many(layers, 'layer')}; no "
            f"model has more than "
            f"{MOST_EXPERTS} experts"
        )


def _wrong(value: object, kind: str) -> str | None:
    if kind == "bool":
        return None if isinstance(value, bool) else "it must be true or false"
    if kind == "str":
        return None if isinstance(value, str) else "it must be a text"
    if kind.startswith("int"):
        sound = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return None if sound else "it must be a whole number"
    sound = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return None if sound else "it must be a number"
