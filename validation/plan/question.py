"""What the options of `plan` ask. Raises UsageError for what cannot be meant."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from validation.case.errors import UsageError
from validation.case.folder import read_config
from validation.case.layout import MOST_RANKS, Layout
from validation.case.model import ASKED_FOR, Model
from validation.case.plural import many
from validation.case.preset import PRESETS, V3_LAYERS
from validation.case.published import from_hf_config
from validation.case.sizes import check_numbers, check_sizes
from validation.case.strangers import quoted, shown
from validation.plan import policy
from validation.plan.fit import VOCABULARY, Question
from validation.recipe import full, read
from validation.recipe.recipe import Recipe
from validation.recipe.signature import Full
from validation.recipe.standin import check_model

DEEPSEEK_V3 = replace(
    V3_LAYERS.model, vocab_size=129280, num_hidden_layers=61, first_k_dense_replace=3, num_nextn_predict_layers=1
)
"""Its published config.json: 671 B parameters, 37 B of them for a token. https://huggingface.co/deepseek-ai/DeepSeek-V3"""
MODELS = {"deepseek-v3": DEEPSEEK_V3, **{name: preset.model for name, preset in PRESETS.items()}}
_SEQUENCE = 4096


@dataclass(frozen=True)
class Asked:
    """The question, what the model is called, and the recipe's own layout if there is a recipe."""

    question: Question
    name: str
    own: Full | None = None


def asked(options: Any) -> Asked:
    """The question that the options ask. Raises UsageError."""
    _check(options)
    recipe, apart = _recipe(options)
    own = full.of(recipe) if recipe is not None and not options.model else None
    model = _model(options, own)
    batch = recipe.batch if recipe is not None else None
    how = policy.of_recipe(recipe) if recipe is not None else policy.Policy()
    question = Question(
        model=model,
        gpus=options.gpus,
        per_node=options.gpus_per_node,
        room=options.gpu_memory - options.reserve,
        seq_length=options.seq_length or (batch.sequence if batch else None) or _SEQUENCE,
        micro_batch_size=options.micro_batch_size or (batch.micro if batch else None) or 1,
        policy=how.doubting(apart) if apart and own else how,
        global_batch=options.global_batch_size or (batch.overall if batch else None),
        imbalance=options.imbalance,
        vocabulary=_padding(recipe),
    )
    name = options.model or recipe.source if recipe else options.model
    return Asked(question, name, replace(own, model=model) if own and not apart else None)


def _recipe(options: Any) -> tuple[Recipe | None, str]:
    """The recipe if there is one, and why its own layout is not one of the GPUs that are asked about."""
    if not options.recipe:
        return None, ""
    try:
        # A layout that the batch cannot be shared in is left out by itself, and another batch may be asked about.
        return replace(read.read(options.recipe, world=options.gpus), uneven=""), ""
    except UsageError as error:
        return read.read(options.recipe), f"the recipe's own layout is left out: {error}"


def _check(options: Any) -> None:
    for name in ("gpus", "gpus_per_node", "seq_length", "micro_batch_size", "global_batch_size", "show"):
        if getattr(options, name) == 0:
            raise UsageError(f"--{name.replace('_', '-')} 0: give a number from 1")
    if options.gpus > MOST_RANKS:
        raise UsageError(f"--gpus {options.gpus}: a layout has up to {MOST_RANKS} ranks")
    if options.gpus > options.gpus_per_node and options.gpus % options.gpus_per_node:
        raise UsageError(f"--gpus {options.gpus} is no multiple of --gpus-per-node {options.gpus_per_node}; give whole nodes")
    if options.reserve >= options.gpu_memory:
        raise UsageError(
            f"--reserve {options.reserve:g} leaves nothing of --gpu-memory {options.gpu_memory:g}; give a smaller --reserve or "
            "a larger --gpu-memory"
        )
    if options.imbalance < 1:
        raise UsageError(f"--imbalance {options.imbalance:g}: the fullest rank has at least the mean; give a number from 1")
    if not options.model and not options.recipe:
        raise UsageError(f"plan needs a model: --model {', '.join(MODELS)} or a folder with config.json, or --recipe FILE")


def _model(options: Any, own: Full | None) -> Model:
    model = own.model if own is not None else _named(options.model)
    model = model.with_numbers(dict(_number(text) for text in options.numbers))
    model = model if options.mtp is None else replace(model, num_nextn_predict_layers=options.mtp)
    check_sizes(model)
    check_model(model)
    if model.sparse:
        raise UsageError(
            "plan counts what attention to all keys keeps for the backward pass, and this model has sparse attention (DSA); a "
            "model without an indexer works, such as --model deepseek-v3"
        )
    return model


def _number(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {shown(text)}: write NAME=VALUE, such as num_hidden_layers=4")
    if name == "padded_vocab_size":
        raise UsageError("--set padded_vocab_size: plan pads the vocabulary for each layout, as Megatron-LM does; leave it out")
    return name, value


def _named(name: str) -> Model:
    if name in MODELS:
        return MODELS[name]
    if not os.path.isdir(name):
        raise UsageError(f"--model {quoted(name)} is neither a folder with config.json nor one of {', '.join(MODELS)}")
    config = read_config(Path(name))
    model = from_hf_config(config, name)
    mtp = config.get(ASKED_FOR)
    model = replace(model, num_nextn_predict_layers=mtp) if isinstance(mtp, int) and not isinstance(mtp, bool) else model
    check_numbers(model, name)
    return model


def _padding(recipe: Recipe | None) -> int:
    """To a multiple of what a recipe pads the vocabulary, as Megatron-LM does."""
    value = recipe.values.get("model.make_vocab_size_divisible_by") if recipe is not None else None
    return value if isinstance(value, int) and value > 0 else VOCABULARY


def given_layout(text: str, gpus: int) -> Layout:
    """The layout of --layout with the data-parallel degree that fills the GPUs. Raises UsageError."""
    layout = Layout.parse(text)
    degree = layout.tp * layout.cp * layout.pp
    if gpus % degree or (layout.dp is not None and layout.ranks != gpus):
        wanted = f"{many(layout.ranks, 'rank')}" if layout.dp is not None else f"a multiple of {degree} ranks"
        raise UsageError(f"--layout {shown(text)} needs {wanted} and --gpus says {gpus}; give another number")
    return replace(layout, dp=gpus // degree)
