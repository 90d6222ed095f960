"""What a config.json says of its model, read as transformers reads it. No torch.

transformers fills in what is missing, takes null for false in some places and refuses it in others. A value that would mean
something else there than here is refused. What transformers' own class makes of the folder is compared once more where the
reference is computed (validation.reference.as_read).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from validation.case.errors import UsageError
from validation.case.families import FOREIGN, Family, described
from validation.case.model import ASKED_FOR, INDEXER, PADDED, Model
from validation.case.strangers import quoted, shown

_ROPE = ("rope_type", "rope_theta", "rope_factor", "original_max_position_embeddings")
_YARN = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")
"""Numbers of the model that stand in the rotary settings."""
_NULL = ("q_lora_rank",)
"""Null says something: there is no query latent."""
_WHOLE = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "moe_layer_freq": 1}
"""Values that every family has, missing or given."""
_WHY = {
    "rope_interleave": "Megatron-Core rotates interleaved pairs only",
    "indexer_rope_interleave": "transformers does not read it, and rotates the indexer as the family does",
    "attention_bias": "Megatron-Core's latent projections have no bias",
    "mlp_bias": "the experts' projections have no bias",
    "hidden_act": "DeepSeek-V3 has 'silu'",
    "moe_layer_freq": "transformers puts experts into every layer behind the first ones",
}


def from_hf_config(config: Mapping[str, Any], source: str) -> Model:
    """The model that a HuggingFace `config.json` describes.

    Takes both spellings of the rotary settings: `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling`
    (transformers 4). Raises UsageError, naming `source`, if a family is not compared, if Megatron-Core has no counterpart, and
    if transformers would read another value.
    """
    found = described(config, source)
    family, config = found.family, _by_one_name(found.config, source)
    _check_kinds(config, family, source)
    _check_fixed(config, family, source)
    _refuse_foreign(config, family, source)
    numbers = _numbers(config, family) | _rotary(config, family, source)
    _check_choice(numbers, family, source)
    _check_layers(config, family, numbers, source)
    _check_indexers(config, family, source)
    try:
        return Model(**numbers)
    except TypeError as error:
        raise UsageError(f"{source}: config.json lacks a number that DeepSeek-V3 needs ({shown(str(error))})") from None


_OTHER_NAMES = {"num_local_experts": "n_routed_experts", "num_experts": "n_routed_experts"}


def _by_one_name(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Other spellings that transformers takes for the same number. Raises UsageError if both are there and differ."""
    found = dict(config)
    for other, name in _OTHER_NAMES.items():
        if other in found and found.setdefault(name, found[other]) != found[other]:
            raise UsageError(
                f"{source}: config.json has {name} {quoted(found[name])} and {other} {quoted(found[other])}, one "
                "number to transformers; keep one"
            )
    for name, parts in {"head_dim": ("qk_rope_head_dim",), "qk_head_dim": ("qk_nope_head_dim", "qk_rope_head_dim")}.items():
        sizes = [size for part in parts if type(size := found.get(part)) is int]
        if name in found and len(sizes) == len(parts) and found[name] != sum(sizes):
            raise UsageError(
                f"{source}: {name} in config.json is {quoted(found[name])}, and {' + '.join(parts)} {sum(sizes)}; remove it"
            )
    return found


def _beside(family: Family) -> tuple[str, ...]:
    """Numbers of a model that its config.json does not give by their own names, or gives and does not mean."""
    return (ASKED_FOR, PADDED, *_ROPE, *_YARN, *(() if family.sparse else INDEXER))


def _check_kinds(config: Mapping[str, Any], family: Family, source: str) -> None:
    """Raises UsageError for null where it says nothing, and for a whole number where transformers wants 1.0."""
    for number in fields(Model):
        name = number.name
        if name in _beside(family) or name not in config:
            continue
        if config[name] is None and name not in _NULL:
            raise UsageError(f"{source}: {name} in config.json is null, which is no value of it; write the model's own")
        if number.type == "float" and type(config[name]) is int:
            raise UsageError(
                f"{source}: {name} in config.json is {shown(config[name])}, and transformers takes no whole number "
                "there; write it with a decimal point"
            )


def _check_fixed(config: Mapping[str, Any], family: Family, source: str) -> None:
    for name, value in {**_WHOLE, **family.fixed}.items():
        given = config.get(name, value)
        if type(given) is not type(value) or given != value:
            read = ", which transformers takes for false," if given is None and value is True else ""
            why = _WHY.get(name, f"{family.model_type} has {_said(value)}")
            raise UsageError(f"{source}: {name} is {_said(given)}{read} and cannot be compared: {why}; {_said(value)} works")
    if config.get("num_key_value_heads") not in (None, config.get("num_attention_heads")):
        raise UsageError(
            f"{source}: num_key_value_heads differs from num_attention_heads; multi-latent attention has one for each"
        )
    dropped = config.get("attention_dropout", 0.0)
    if dropped != 0 or isinstance(dropped, bool):
        raise UsageError(
            f"{source}: attention_dropout is {_said(dropped)}, not 0, and two models that drop at random cannot be compared"
        )


def _said(value: Any) -> str:
    """A value as JSON writes it, as far as a sentence may repeat it."""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else quoted(value)


def _refuse_foreign(config: Mapping[str, Any], family: Family, source: str) -> None:
    for name, (what, other) in FOREIGN.items():
        if config.get(name) not in (None, False, 0) and not (family.sparse and name in INDEXER):
            raise UsageError(
                f"{source}: {name} in config.json switches on {what}, which {other} has and {family.model_type} has "
                "not; correct model_type, or remove the key"
            )


def _numbers(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    names = [number.name for number in fields(Model) if number.name not in _beside(family)]
    return {**family.defaults, **{name: config[name] for name in names if name in config}}


def _rotary(config: Mapping[str, Any], family: Family, source: str) -> dict[str, Any]:
    """The rotary settings as numbers of the model. transformers goes by rope_scaling, and without one by rope_parameters."""
    rope = _one_of_both(config, source)
    _refuse_rope(rope, source)
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    if theta is None:
        raise UsageError(f"{source}: rope_theta in config.json is null, which is no value of it; write the model's own")
    found: dict[str, Any] = {"rope_theta": theta}
    kind = rope.get("rope_type", rope.get("type"))
    if kind in (None, "default"):
        return found | {"rope_type": "default", "rope_factor": 1.0, "mscale_all_dim": 0.0}
    found |= {"rope_type": kind, "rope_factor": rope["factor"], "mscale": None}
    found |= {name: rope[name] for name in _YARN if rope.get(name) is not None}
    length = config.get("max_position_embeddings", family.defaults["max_position_embeddings"])
    # transformers falls back on the length of the model itself.
    return found | {"original_max_position_embeddings": rope.get("original_max_position_embeddings") or length}


def _one_of_both(config: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    spellings: list[Mapping[str, Any]] = []
    for name in ("rope_scaling", "rope_parameters"):
        said = config.get(name)
        if said is not None and not isinstance(said, dict):
            raise UsageError(f"{source}: {name} in config.json is {quoted(said)}; it must be an object")
        spellings.append(said or {})
    scaling, settings = spellings
    theta = config.get("rope_theta", 10000.0)
    if scaling and settings and _alike(scaling, theta) != _alike(settings, theta):
        raise UsageError(
            f"{source}: config.json has rope_scaling and rope_parameters, and they differ; transformers takes rope_scaling, "
            "other programs the other one; keep one"
        )
    return scaling or settings


def _alike(rope: Mapping[str, Any], theta: Any) -> dict[str, Any]:
    """Rotary settings by the names of transformers 5."""
    found = {name: value for name, value in rope.items() if name != "type"}
    return {"rope_theta": theta, "rope_type": rope.get("type", "default")} | found


def _refuse_rope(rope: Mapping[str, Any], source: str) -> None:
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in (None, "default", "yarn"):
        raise UsageError(f"{source}: rope type {quoted(kind)} cannot be compared; Megatron-Core's MLA has 'yarn' and 'default'")
    if kind == "yarn" and (not isinstance(rope.get("factor"), (int, float)) or isinstance(rope["factor"], bool)):
        raise UsageError(f"{source}: yarn without a factor; config.json must give one")
    neutral: dict[str, tuple[Any, ...]] = {
        "attention_factor": (None,),
        "truncate": (None, True),
        "partial_rotary_factor": (None, 1, 1.0),
    }
    for name, values in neutral.items():
        if rope.get(name) not in values:
            raise UsageError(
                f"{source}: rope setting {name}={shown(rope[name])} has no counterpart in Megatron-Core; remove it to compare"
            )


def _check_choice(numbers: dict[str, Any], family: Family, source: str) -> None:
    method = numbers["topk_method"]
    if method not in family.topk_methods:
        wanted = " or ".join(map(repr, family.topk_methods))
        raise UsageError(f"{source}: topk_method is {quoted(method)}; {family.model_type} has {wanted}")


def _check_layers(config: Mapping[str, Any], family: Family, numbers: dict[str, Any], source: str) -> None:
    """Which layers have experts, where transformers goes by a list of its own. Raises UsageError."""
    given, layers = config.get("mlp_layer_types"), numbers.get("num_hidden_layers")
    if not family.ignores_first_k_dense or not isinstance(layers, int) or layers > 1 << 10:
        return
    kinds = given if given is not None else ["dense"] + ["sparse"] * (layers - 1)
    dense = numbers["first_k_dense_replace"]
    if isinstance(kinds, list) and given is not None and "first_k_dense_replace" not in config:
        dense = numbers["first_k_dense_replace"] = kinds.count("dense")
    if isinstance(dense, int) and kinds != ["dense"] * dense + ["sparse"] * (layers - dense):
        raise UsageError(
            f"{source}: first_k_dense_replace is {shown(dense)}, and of {family.model_type} transformers reads mlp_layer_types "
            f"instead, which {'is other' if given is not None else 'if missing has one dense layer'}; let both say the same"
        )


def _check_indexers(config: Mapping[str, Any], family: Family, source: str) -> None:
    """Every layer has an indexer of its own. Raises UsageError where transformers lets a layer take another's keys."""
    kinds, pattern, often = (config.get(name) for name in ("indexer_types", "index_topk_pattern", "index_topk_freq"))
    if not family.sparse or all(given is None for given in (kinds, pattern, often)):
        return
    own = (kinds is None or (isinstance(kinds, list) and set(kinds) == {"full"}), pattern is None, often in (None, 1))
    if all(own):
        return
    name = ("indexer_types", "index_topk_pattern", "index_topk_freq")[own.index(False)]
    raise UsageError(
        f"{source}: {name} in config.json is {quoted(config[name])}, with which layers may take the keys that another layer's "
        "indexer has chosen, and Plumbline compares models with an indexer in each layer; remove it if all have one"
    )
