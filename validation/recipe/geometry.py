"""The numbers of the model and the layout that settings of upstream's names describe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from validation.case import fields, rotary, sparse
from validation.case.annotation import Value
from validation.case.errors import UsageError
from validation.case.families import GREEDY, GROUP_LIMITED
from validation.case.layout import Layout, check_ranks
from validation.case.model import MEGATRON_WORDS
from validation.case.plural import many
from validation.case.settings import written
from validation.case.strangers import shown
from validation.case.suggestions import join

_SAME = (
    "kv_lora_rank",
    "q_lora_rank",
    "qk_head_dim",
    "qk_pos_emb_head_dim",
    "v_head_dim",
    "hidden_size",
    "num_attention_heads",
    "ffn_hidden_size",
    "moe_ffn_hidden_size",
    "num_layers",
    "num_moe_experts",
    "moe_router_topk",
    "layernorm_epsilon",
    "rotary_base",
    "rotary_scaling_factor",
    "rope_type",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
)
"""Fields of MLATransformerConfig that are numbers of the model by one name or the other."""
_INDEXER = ("dsa_indexer_topk", "dsa_indexer_n_heads", "dsa_indexer_head_dim")
"""Sizes of sparse attention, which has all of them."""
_SWITCHES = {
    "normalization": "--normalization RMSNorm",
    "gated_linear_unit": "--swiglu",
    "activation_func": "--swiglu",
    "add_bias_linear": "--disable-bias-linear",
    "qk_layernorm": "--qk-layernorm",
}
"""Fields that have one value in every DeepSeek-V3, and the flag that gives it. The default of Megatron-LM is another."""
_MAMBA = "layers of Mamba among those with attention"
OTHER_LAYERS = {
    "hybrid_override_pattern": _MAMBA,
    "hybrid_layer_pattern": _MAMBA,
    "hybrid_attention_ratio": _MAMBA,
    "is_hybrid_model": _MAMBA,
    "heterogeneous_layers_config_path": "layers that differ",
    "heterogeneous_layers_config_encoded_json": "layers that differ",
    "use_legacy_models": "the layers that Megatron-LM had before Megatron-Core",
}
"""Arguments that only another model has."""
_DENSE = "the model has no experts, and Plumbline compares models that have them; if the flag was forgotten, give --num-experts"
_ROPE = {"rope": "default", "yarn": "yarn"}
_MOST_DEGREE = 1 << 17


@dataclass(frozen=True)
class Geometry:
    """Numbers of the model by the names of `validation.case.model.Model`, and sentences on what has no such number.

    Each says what would have one.
    """

    numbers: Mapping[str, Value]
    unlike: tuple[str, ...]


def of(values: Mapping[str, Value], whole: bool = True) -> Geometry:
    """The geometry that fields of `model` describe (their names without the section); None is what nobody has said.

    Without `whole` the values are a part of a model: nothing is said of missing experts.
    """
    numbers: dict[str, Value] = {}
    for name in _SAME:
        if values.get(name) is not None:
            numbers[MEGATRON_WORDS.get(name, name)] = values[name]
    if "q_lora_rank" in values:
        numbers["q_lora_rank"] = values["q_lora_rank"]
    if isinstance(rope := numbers.pop("rope_type", None), str):
        numbers["rope_type"] = _ROPE.get(rope, rope)
    numbers["num_nextn_predict_layers"] = _whole(values.get("mtp_num_layers"))
    unlike: list[str] = []
    if values.get("num_moe_experts") is None:
        unlike += [_DENSE] if whole else []
    else:
        groups, chosen = _groups(values)
        numbers |= {"n_group": groups or 1, "topk_group": chosen or groups or 1}
        scale = values.get("moe_router_topk_scaling_factor")
        numbers["routed_scaling_factor"] = scale or 1.0  # Megatron-Core leaves a factor of 0 out
        numbers |= _choice(values)
        unlike += [*_dense(values, numbers), *_shared(values, numbers)]
    unlike += [*_indexer(values, numbers), *rotary.unlike(numbers)]
    return Geometry(numbers, tuple(unlike))


def _indexer(values: Mapping[str, Value], numbers: dict[str, Value]) -> Iterator[str]:
    """The numbers of sparse attention, and a sentence on what neither it nor attention to all keys has."""
    variant = values.get("experimental_attention_variant")
    if variant is None:
        return
    if variant != sparse.VARIANT:
        yield (
            f"the attention is {written(variant)}, and Plumbline compares multi-latent attention to all keys and sparse "
            "attention (dsa); leave --experimental-attention-variant out, or give dsa"
        )
        return
    sizes = {name: values.get(name) for name in _INDEXER}
    if missing := ["--" + name.replace("_", "-") for name, size in sizes.items() if size is None]:
        yield f"sparse attention (DSA) has no size without {join(missing)}; give {'it' if len(missing) == 1 else 'them'}"
    elif values.get("q_lora_rank") is None:
        yield "the indexer of sparse attention (DSA) reads the query latent, and there is none; give --q-lora-rank"
    elif numbers["num_nextn_predict_layers"]:
        yield (
            "transformers makes no MTP layer of a model with sparse attention (DSA), so nothing compares the two together; "
            "leave --mtp-num-layers out to compare all the rest"
        )
    numbers |= {MEGATRON_WORDS[name]: size for name, size in sizes.items()}
    numbers["indexer_rope_interleave"] = bool(values.get("dsa_indexer_rope_interleaved"))


def _choice(values: Mapping[str, Value]) -> dict[str, Value]:
    """DeepSeek-V2's choice of experts, if the router has it: a softmax over all of them before the choice, and no bias."""
    before = values.get("moe_router_score_function") == "softmax" and values.get("moe_router_pre_softmax")
    if not before or values.get("moe_router_enable_expert_bias"):
        return {}
    return {"topk_method": GROUP_LIMITED if _groups(values)[0] > 1 else GREEDY}


def other(values: Mapping[str, Value]) -> Iterator[str]:
    """A sentence on each field that is the same in every DeepSeek-V3, as the table of fields has it, and that is not here.

    A model with another attention is another one, whose other fields are not to be mended.
    """
    if values.get("multi_latent_attention") is False:
        yield (
            "the model has no multi-latent attention, and Plumbline compares models that have it, as DeepSeek-V3; "
            "if the flag was forgotten, give --multi-latent-attention"
        )
        return
    for name, flag in _SWITCHES.items():
        entry, value = fields.entry(f"model.{name}"), values.get(name)
        if value is not None and value not in entry.only:
            yield f"{entry.name}={written(value)}, and {entry.why.partition(';')[0]}; give {flag}"


def other_layers(values: Mapping[str, Value]) -> Iterator[str]:
    """A sentence on each argument or key that says layers of another model."""
    for name, what in OTHER_LAYERS.items():
        if value := values.get(name):
            yield f"{name.replace('_', '-')} {shown(written(value))} is of models with {what}; leave it out"


def positions(kind: Value) -> Iterator[str]:
    """A sentence on positions that are not rotary: learned ones are added to what multi-latent attention rotates by itself."""
    if kind not in ("rope", "none", None):
        yield f"the positions are {kind}, and DeepSeek-V3 has rotary ones; give --position-embedding-type rope"


def unsplit(values: Mapping[str, Value]) -> Iterator[str]:
    """A sentence on tensor parallelism without sequence parallelism, with which megatron-core trains no experts."""
    tp = _whole(values.get("tensor_model_parallel_size"))
    if tp > 1 and values.get("num_moe_experts") is not None and not values.get("sequence_parallel"):
        yield f"Megatron-Core refuses to train experts with tp{tp} and no sequence parallelism; give --sequence-parallel"


def given(numbers: Mapping[str, Value], said: Mapping[str, Value]) -> dict[str, Value]:
    """Of the model's numbers those that `said` gives, fields of `model` without the dataclasses' defaults."""
    own = of(said).numbers
    return {name: value for name, value in numbers.items() if name in own and (value or name in said)}


def _whole(value: Value) -> int:
    return int(value) if isinstance(value, (int, float)) and abs(value) < 1e18 else 0


def _groups(values: Mapping[str, Value]) -> tuple[int, int]:
    """Groups of experts, and how many a token chooses; 0 is not said. The old name has as many groups as ep ranks."""
    groups, chosen = _whole(values.get("moe_router_num_groups")), _whole(values.get("moe_router_group_topk"))
    limited = _whole(values.get("moe_router_topk_limited_devices"))
    return (_whole(values.get("expert_model_parallel_size")), limited) if limited and not chosen else (groups, chosen)


def _dense(values: Mapping[str, Value], numbers: dict[str, Value]) -> Iterator[str]:
    """How many dense layers come first; DeepSeek-V3 has no other pattern."""
    frequency = values.get("moe_layer_freq", 1)
    layers = _whole(values.get("num_layers"))
    if isinstance(frequency, tuple):
        dense = next((place for place, one in enumerate(frequency) if one), len(frequency))
        if not all(frequency[dense:]):
            yield "moe_layer_freq puts dense layers behind those with experts, and DeepSeek-V3's come first, as ([0]*3+[1]*58)"
        elif layers and len(frequency) != layers:
            yield f"moe_layer_freq has {many(len(frequency), 'layer')} and the model {layers}; give as many"
        numbers["first_k_dense_replace"] = dense
    elif isinstance(frequency, str):
        yield f"moe_layer_freq {shown(frequency)} is text, and Megatron-Core takes a number or a list; write 1, or [0, 1, 1]"
    elif frequency in (1, None):
        numbers["first_k_dense_replace"] = 0
    else:
        yield f"moe_layer_freq {frequency} puts dense layers between those with experts, and DeepSeek-V3 has none there; give 1"


def _shared(values: Mapping[str, Value], numbers: dict[str, Value]) -> Iterator[str]:
    """How many shared experts: the width of the shared one over that of the routed."""
    shared, routed = _whole(values.get("moe_shared_expert_intermediate_size")), _whole(values.get("moe_ffn_hidden_size"))
    if routed and shared % routed == 0:
        numbers["n_shared_experts"] = shared // routed
    elif routed:
        yield f"the shared expert is {shared} wide; give a multiple of the {routed} of a routed one, as DeepSeek-V3 has"


def layout(values: Mapping[str, Value], world: int | None, source: str) -> Layout:
    """The parallel degrees; `dp` stays None where the number of ranks is not known. Raises UsageError for impossible ones."""
    degrees = {
        "tp": values.get("tensor_model_parallel_size"),
        "pp": values.get("pipeline_model_parallel_size"),
        "vpp": values.get("virtual_pipeline_model_parallel_size"),
        "cp": values.get("context_parallel_size"),
        "ep": values.get("expert_model_parallel_size"),
        "etp": values.get("expert_tensor_parallel_size"),
    }
    known = {name: _degree(name, value, source) for name, value in degrees.items()}
    ranks = known["tp"] * known["pp"] * known["cp"]
    if world is not None and world % ranks:
        raise UsageError(f"{source}: {_hold(world)} tp x pp x cp = {ranks}; give a multiple of {many(ranks, 'rank')}")
    sequence = bool(values.get("sequence_parallel")) or known["tp"] == 1
    found = Layout(**known, dp=world // ranks if world else None, sequence_parallel=sequence)
    experts = found.expert_tp * found.ep * found.pp
    if world is not None and world % experts:
        raise UsageError(f"{source}: {_hold(world)} etp x ep x pp = {experts}; give a multiple of {many(experts, 'rank')}")
    return check_ranks(found, source)


def _hold(world: int) -> str:
    return "1 rank does not hold" if world == 1 else f"{many(world, 'rank')} do not hold"


def _degree(name: str, value: Value, source: str) -> int:
    degree = 1 if value is None else value
    if type(degree) is not int or not 1 <= degree <= _MOST_DEGREE:
        raise UsageError(f"{source}: {name} is {value}; a degree is a whole number from 1 to {_MOST_DEGREE}")
    return degree
