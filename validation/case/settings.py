"""Settings: fields of upstream's configuration by their own names, such as `model.moe_permute_fusion`.

A section is one of upstream's classes: `model` is MLATransformerConfig with what it inherits, `ddp`
DistributedDataParallelConfig, `optimizer` OptimizerConfig, and `scheduler` the arguments of OptimizerParamScheduler. BASE has
what Plumbline sets. The words that may follow a layout are short forms: `+mean` is `model.calculate_per_token_loss=false`.

What reads values of text needs PyYAML, and is imported when there is such a text: the doctor runs without packages.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from validation.case.annotation import Value
from validation.case.errors import UsageError
from validation.case.strangers import shown

Given = tuple[tuple[str, Value], ...]
"""Settings by name, sorted."""

SECTIONS = ("model", "ddp", "optimizer", "scheduler")
BASE: Mapping[str, Value] = MappingProxyType(
    {
        # What would change the numbers, or hide a wrong one.
        "model.calculate_per_token_loss": True,
        "model.attention_dropout": 0.0,
        "model.hidden_dropout": 0.0,
        "model.moe_router_score_function": "sigmoid",
        "model.moe_router_enable_expert_bias": True,
        "model.moe_router_pre_softmax": True,
        "model.moe_router_load_balancing_type": "none",
        "model.moe_aux_loss_coeff": 0.0,
        "model.moe_z_loss_coeff": None,
        # A power of two, for the expert bias is float32 in every precision. It moves if the case takes steps.
        "model.moe_router_bias_update_rate": 2**-7,
        # The report's first value, which is not megatron-core's default: a setting that is lost shows.
        "model.mtp_loss_scaling_factor": 0.3,
        # What must not change a number.
        "model.moe_token_dispatcher_type": "alltoall",
        "model.recompute_granularity": None,
        "model.recompute_method": None,
        "model.recompute_num_layers": None,
        "model.recompute_modules": None,
        "model.fp8": None,
        "model.fp8_recipe": None,
        "model.use_cpu_initialization": False,
        # megatron-core marks tensor-parallel parameters only while it initializes them.
        "model.perform_initialization": True,
        "model.deallocate_pipeline_outputs": False,
        "model.gradient_accumulation_fusion": False,
        "model.bias_dropout_fusion": False,
        "model.bias_activation_fusion": False,
        "model.masked_softmax_fusion": False,
        "model.apply_rope_fusion": False,
        "model.persist_layer_norm": False,
        "model.cross_entropy_loss_fusion": False,
        "model.barrier_with_L1_time": False,
        "ddp.overlap_grad_reduce": False,
        "ddp.use_distributed_optimizer": False,
        # AdamW as DeepSeek-V3 is trained with it (report, section 4.2), the learning rate aside. It is large, so that a wrong
        # update stands out of the parameter. The limit of the norm is small, so that
        # step 1 is clipped; step 2 is not (validation.reference.steps).
        "optimizer.optimizer": "adam",
        "optimizer.lr": 1e-2,
        "optimizer.min_lr": 0.0,
        "optimizer.weight_decay": 0.1,
        "optimizer.adam_beta1": 0.9,
        "optimizer.adam_beta2": 0.95,
        "optimizer.adam_eps": 1e-8,
        "optimizer.clip_grad": 0.05,
        "optimizer.use_distributed_optimizer": False,
    }
)
"""What Plumbline sets a field to, whatever the case, unless a setting says otherwise."""

SELECTIVE = ("core_attn", "layernorm", "shared_experts")
"""What `+selective` computes again."""
BALANCE_COEFFICIENT = 0.1
"""What a balancing loss is multiplied with: a thousand times DeepSeek-V3's, so that a wrong one stands out of the gradient."""
_BALANCED = {"model.moe_aux_loss_coeff": BALANCE_COEFFICIENT}
SHORT: Mapping[tuple[str, str], Mapping[str, Value]] = MappingProxyType(
    {
        ("optimizer", "distributed"): {"ddp.use_distributed_optimizer": True, "optimizer.use_distributed_optimizer": True},
        ("loss", "mean"): {"model.calculate_per_token_loss": False},
        ("balancing", "seq_aux_loss"): {"model.moe_router_load_balancing_type": "seq_aux_loss", **_BALANCED},
        ("balancing", "aux_loss"): {"model.moe_router_load_balancing_type": "aux_loss", **_BALANCED},
        ("balancing", "z_loss"): {"model.moe_z_loss_coeff": BALANCE_COEFFICIENT},
        ("recompute", "full"): {
            "model.recompute_granularity": "full",
            "model.recompute_method": "uniform",
            "model.recompute_num_layers": 1,
        },
        ("recompute", "selective"): {"model.recompute_granularity": "selective", "model.recompute_modules": SELECTIVE},
        ("dispatcher", "allgather"): {"model.moe_token_dispatcher_type": "allgather"},
        ("experts", "sequential"): {"model.moe_grouped_gemm": False},
        ("experts", "grouped"): {"model.moe_grouped_gemm": True},
        # The formats that each recipe is known with: gradients in e5m2 under delayed scaling, all in e4m3 with blocks, as
        # DeepSeek-V3 is trained.
        ("fp8", "delayed"): {"model.fp8": "hybrid", "model.fp8_recipe": "delayed"},
        ("fp8", "blockwise"): {"model.fp8": "e4m3", "model.fp8_recipe": "blockwise"},
    }
)
"""What an option stands for if it is not the default."""

_NAME = re.compile(r"(model|ddp|optimizer|scheduler)\.[A-Za-z_][A-Za-z0-9_]*")
_LONGEST = 48
"""Characters that settings may take of a case's name."""


def expanded(options: Mapping[str, str]) -> dict[str, Value]:
    """What options, such as `{"loss": "mean"}`, stand for beside BASE."""
    return {name: value for option in options.items() for name, value in SHORT.get(option, {}).items()}


def folded(options: Mapping[str, str], given: Mapping[str, Value]) -> tuple[dict[str, str], Given]:
    """The same settings with as much of `given` as possible in options, and what is left. Raises UsageError.

    A case is called the same whichever way it is written.
    """
    whole = {**BASE, **expanded(options), **_with_pair(given)}
    said = {**options, **_options(whole)}
    usual = {**BASE, **expanded(said)}
    left = {name: value for name, value in whole.items() if name not in usual or not _same(usual[name], value)}
    return said, tuple(sorted(left.items()))


def effective(options: Mapping[str, str], given: Given, section: str) -> dict[str, Value]:
    """Every field of a section that BASE, options or settings say something of, without the section's name."""
    whole = {**BASE, **expanded(options), **dict(given)}
    return {name.partition(".")[2]: value for name, value in whole.items() if name.startswith(f"{section}.")}


def _with_pair(given: Mapping[str, Value]) -> dict[str, Value]:
    """The distributed optimizer is named in two sections: one of them stands for both. Raises UsageError."""
    both = ("ddp.use_distributed_optimizer", "optimizer.use_distributed_optimizer")
    said = {given[name] for name in both if name in given}
    if len(said) > 1:
        raise UsageError(f"{both[0]} and {both[1]} contradict each other; give both the same value, or one of them")
    return {**given, **(dict.fromkeys(both, said.pop()) if said else {})}


def _options(whole: Mapping[str, Value]) -> dict[str, str]:
    """The options that settings amount to."""
    fp8 = {("hybrid", "delayed"): "delayed", ("e4m3", "blockwise"): "blockwise"}
    granularity, grouped = whole["model.recompute_granularity"], whole.get("model.moe_grouped_gemm")
    return {
        "optimizer": "distributed" if whole["ddp.use_distributed_optimizer"] else "plain",
        "loss": "token" if whole["model.calculate_per_token_loss"] else "mean",
        "balancing": _balancing(whole),
        "recompute": str(granularity) if granularity in ("full", "selective") else "none",
        "dispatcher": "allgather" if whole["model.moe_token_dispatcher_type"] == "allgather" else "alltoall",
        "experts": "default" if grouped is None else "grouped" if grouped else "sequential",
        "fp8": fp8.get((str(whole["model.fp8"]), str(whole["model.fp8_recipe"])), "none"),
    }


def _balancing(whole: Mapping[str, Value]) -> str:
    """A balancing loss whose coefficient is 0 is none: megatron-core does not compute it either."""
    kind = whole["model.moe_router_load_balancing_type"]
    if whole["model.moe_aux_loss_coeff"] and kind in ("seq_aux_loss", "aux_loss"):
        return str(kind)
    return "z_loss" if whole["model.moe_z_loss_coeff"] else "none"


def _same(one: Value, other: Value) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


# Settings as text


def read(text: str) -> Value:
    """A value as it stands on a command line: true, 3, 1e-3, null, [mlp, moe], or a word. Raises UsageError."""
    from validation.case.scalars import from_text

    try:
        return from_text(text.strip())
    except ValueError as error:
        sentence = f"{shown(text)} is no value of a setting: {error}; give one such as true, 3, 1e-3 or [mlp,moe]"
        raise UsageError(sentence) from None


def split(text: str) -> list[str]:
    """The parts between commas that stand in no brackets and no quotes; none of an empty text."""
    parts, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == '"'
        depth += 0 if quoted else (letter == "[") - (letter == "]")
        if letter == "," and depth <= 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return parts if text.strip() else []


def written(value: Value) -> str:
    """The text that `read` reads as `value`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, str):
        from validation.case.scalars import from_text

        plain = re.fullmatch(r"[\w./-]+", value) and from_text(value) == value
        return value if plain else json.dumps(value, ensure_ascii=False)
    return repr(value).replace("e+", "e")  # a plus would begin another word of a layout


def parsed(text: str) -> tuple[str, Value]:
    """NAME=VALUE, NAME with its section; NAME alone is true. Raises UsageError."""
    name, equals, value = text.strip().partition("=")
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--config {shown(text)}: give SECTION.FIELD=VALUE, such as model.moe_permute_fusion=true; sections are "
            f"{', '.join(SECTIONS)}"
        )
    if equals and not value.strip():
        raise UsageError(f"--config {shown(text)} has no value; give {name}=VALUE, such as {name}=true")
    return name, read(value) if equals else True


def of_word(word: str) -> tuple[str, Value] | None:
    """What a word that follows a layout sets: `moe_permute_fusion`, `ddp.bucket_size=1000`. None if no field is called so."""
    name, equals, value = word.partition("=")
    whole = name if "." in name else f"model.{name}"
    from validation.case import fields

    return (whole, read(value) if equals else True) if whole in fields.entries() else None


def near(word: str) -> tuple[str, ...]:
    """Fields that are called almost like a word that follows a layout."""
    from validation.case import fields

    names = [name.removeprefix("model.") for name in fields.entries()]
    return tuple(difflib.get_close_matches(word.partition("=")[0], names, 2))


def words(given: Given) -> tuple[str, ...]:
    """Each setting as a word that may follow a layout: `moe_permute_fusion`, `ddp.bucket_size=1000`."""
    return tuple(name.removeprefix("model.") + ("" if value is True else f"={written(value)}") for name, value in given)


def label(given: Given) -> tuple[str, ...]:
    """The words in a case's name: themselves where they are short and plain, else their number and a digest."""
    said = words(given)
    if len("+".join(said)) <= _LONGEST and all(re.fullmatch(r"[\w.=-]+", word) for word in said):
        return said
    digest = hashlib.sha256(json.dumps(given).encode()).hexdigest()[:8]
    return (f"{len(given)}-settings-{digest}",)


def from_lists(data: Sequence[Sequence[object]]) -> Given:
    """Settings as JSON has them."""
    return tuple((str(name), _frozen(value)) for name, value in data)


def _frozen(value: object) -> Value:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value  # type: ignore[return-value]
