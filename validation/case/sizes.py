"""How large the numbers of a model may be: beyond this they are mistakes, and are refused before anything is made of them."""

from __future__ import annotations

import math
from dataclasses import fields

from validation.case.errors import UsageError
from validation.case.model import Model
from validation.case.strangers import quoted

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


def check_numbers(model: Model, source: str, where: str = " in config.json") -> None:
    """Raises UsageError, naming `source`, for a number that is none or that no model has."""
    for field in fields(model):
        value, kind = getattr(model, field.name), str(field.type)
        if value is None and "None" in kind:
            continue
        if (wrong := _wrong(field.name, value, kind)) is not None:
            raise UsageError(f"{source}: {field.name}{where} is {quoted(value)}; {wrong}")
    experts = model.n_routed_experts * len(model.expert_blocks)
    if experts > MOST_EXPERTS:
        raise UsageError(
            f"{source}: n_routed_experts{where} is {model.n_routed_experts}, in each of {len(model.expert_blocks)} layers; no "
            f"model has more than {MOST_EXPERTS} experts"
        )


def _wrong(name: str, value: object, kind: str) -> str | None:
    if kind == "bool":
        return None if isinstance(value, bool) else "it must be true or false"
    if kind == "str":
        return None if isinstance(value, str) else "it must be a text"
    if kind.startswith("int"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            return "it must be a whole number"
        most = _LARGEST.get(name, _USUAL)
        return None if value <= most else f"no model has more than {most}"
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        return "it must be a number"
    return None if abs(value) <= _LARGEST_FLOAT else f"no model has more than {_LARGEST_FLOAT:g}"
