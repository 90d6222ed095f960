"""A recipe as something to find a stand-in for: model, layout and how layers are split."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import Any

from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.model import Model
from validation.case.pipeline_layout import parse
from validation.case.plural import many
from validation.case.preset import TINY
from validation.case.strangers import shown
from validation.case.suggestions import join
from validation.recipe import pipeline
from validation.recipe.pipeline import Split
from validation.recipe.recipe import Recipe
from validation.recipe.signature import Full, Options
from validation.recipe.small import VOCABULARY

_LAYOUT = "model.pipeline_model_parallel_layout"
_NEEDED = ("num_hidden_layers", "num_attention_heads", "n_routed_experts")
"""Numbers without which there is no signature. The other sizes shrink to the same, whatever they are."""


def of(recipe: Recipe) -> Full:
    """Model, layout and options of a recipe.

    Raises UsageError for one that lacks a number which the signature needs, and for one that nothing can stand for.

    Without a number of ranks, dp is the smallest that the other degrees allow.
    """
    if wrong := next(iter(recipe.unlike), recipe.uneven):
        raise UsageError(f"{recipe.source}: {wrong}")
    missing = [name for name in _NEEDED if recipe.model.get(name) is None]
    if missing:
        raise UsageError(
            f"{recipe.source} does not say {join(missing)}, without which no small model can stand for it; "
            "give a file that says it, or the model's HuggingFace folder to `run --hf-model-path` or `plan --model`"
        )
    split = _split(recipe)
    return Full(_model(recipe), _layout(recipe, split), _options(recipe, split), recipe.batch.sequence, recipe.batch.micro)


def _model(recipe: Recipe) -> Model:
    """The model; what the recipe does not say is DeepSeek-V3's own default, and of a size that has none `tiny`'s.

    A vocabulary that only a tokenizer knows is the stand-in's, so that no sentence says how much smaller it is.
    """
    required: dict[str, Any] = {
        field.name: getattr(TINY.model, field.name) for field in fields(Model) if field.default is MISSING
    }
    known = {field.name for field in fields(Model)}
    said: dict[str, Any] = {name: value for name, value in recipe.model.items() if name in known}
    return Model(**(required | {"vocab_size": VOCABULARY, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0} | said))


def _split(recipe: Recipe) -> Split:
    values = recipe.values
    text = values.get(_LAYOUT)
    if text is not None and not isinstance(text, str):
        text = pipeline.joined(text, recipe.source)
    first, last = (values.get(f"model.num_layers_in_{end}_pipeline_stage") for end in ("first", "last"))
    embedding, loss = (values.get(f"model.account_for_{end}_in_pipeline_split") for end in ("embedding", "loss"))
    return Split(text, _count(first), _count(last), bool(embedding), bool(loss))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _layout(recipe: Recipe, split: Split) -> Layout:
    """The recipe's layout; a pipeline layout string says by its length how many virtual stages there are."""
    layout = recipe.layout
    if not split.layout:
        return layout
    stages = len(parse(split.layout))
    if stages % layout.pp:
        raise UsageError(
            f"{recipe.source}: pipeline layout {shown(split.layout)} has {many(stages, 'stage')}, no multiple of pp{layout.pp}"
        )
    return replace(layout, vpp=stages // layout.pp)


def _options(recipe: Recipe, split: Split) -> Options:
    values = recipe.values
    kind = values.get("model.cp_comm_type") or "p2p"
    return Options(
        split,
        bool(values.get("ddp.use_distributed_optimizer")),
        kind if isinstance(kind, str) else "a layer each",
        str(values.get("model.moe_token_dispatcher_type") or "allgather"),
        _count(values.get("ddp.num_distributed_optimizer_instances")) or 1,
    )
