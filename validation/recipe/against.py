"""Where a recipe trains another model than a HuggingFace folder has: its flags would be compared with numbers of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from validation.case.annotation import Value
from validation.case.errors import UsageError
from validation.case.families import GREEDY, SIGMOID
from validation.case.folder import model_from_folder
from validation.case.model import ASKED_FOR, MEGATRON_WORDS, PADDED, Model
from validation.case.rotary import mscale
from validation.recipe.recipe import Origin, Recipe, Setting, Source

_ELSEWHERE = (ASKED_FOR, PADDED, "vocab_size", "max_position_embeddings")
"""Whether MTP layers are trained says the recipe. Megatron-LM pads the vocabulary, and the last is in no number of a step."""
_YARN = ("original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
_FIELDS = {name: field for field, name in MEGATRON_WORDS.items()} | {
    "first_k_dense_replace": "moe_layer_freq",
    "n_shared_experts": "moe_shared_expert_intermediate_size",
    "topk_method": "moe_router_score_function",
    "rope_type": "rope_type",
}
_SCORES, _BIAS = "model.moe_router_score_function", "model.moe_router_enable_expert_bias"
_MOST = 4
"""Numbers in a sentence."""


def taken(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the folder's numbers; whether MTP layers are trained says the recipe. Raises UsageError.

    If the recipe leaves the router to the folder, as ms-swift does, its scores are those that config.json says
    (mcore_bridge/config/parser.py of mcore-bridge).
    """
    theirs, settings = model_from_folder(folder), recipe.settings
    if not recipe.unlike:
        check(recipe, theirs, folder)
    if "n_group" not in recipe.model:
        origin = Origin(Source.DEFAULT, "config.json", str(folder))
        scores: dict[str, Value] = {_SCORES: "sigmoid", _BIAS: True} if theirs.sigmoid else {_SCORES: "softmax", _BIAS: False}
        own = (Setting(name, value, origin) for name, value in scores.items() if name not in recipe.values)
        settings = (*settings, *own)
    model = {**theirs.as_dict(), ASKED_FOR: recipe.model.get(ASKED_FOR) or 0}
    return replace(recipe, settings=settings, model=model)


def check(recipe: Recipe, theirs: Model, folder: Path) -> None:
    """Raises UsageError if a number that the recipe has is not the folder's, but for what it leaves to the folder."""
    numbers = asdict(theirs)
    said = {name: value for name, value in recipe.model.items() if name in numbers and name not in _ELSEWHERE}
    if "n_group" in said:  # the router is the recipe's
        said.setdefault("topk_method", SIGMOID)
    ours, wanted = _counting(numbers | said), _counting(asdict(replace(theirs, mscale=mscale(theirs))))
    wrong = [name for name in said if name in ours and name in wanted and ours[name] != wanted[name]]
    if wrong:
        listed = "; ".join(_difference(recipe, name, ours[name], wanted[name]) for name in wrong[:_MOST])
        more = f"; and {len(wrong) - _MOST} more" if len(wrong) > _MOST else ""
        raise UsageError(
            f"{recipe.source} trains another model than {folder} has: {listed}{more}; give the flags of that model"
        )


def _difference(recipe: Recipe, name: str, ours: Value, theirs: Value) -> str:
    field = f"model.{_FIELDS.get(name, name)}"
    flag = next((one.origin.text for one in recipe.settings if one.name == field and one.origin.source is Source.GIVEN), "")
    return f"{name} is {ours}" + (f" by {flag}" if flag else "") + f", and {theirs} in config.json"


def _counting(numbers: Mapping[str, Value]) -> dict[str, Value]:
    """Those that a model's own numbers depend on: groups of which all are chosen limit nothing, and plain positions no yarn."""
    return {name: value for name, value in _normalised(numbers) if name not in _ELSEWHERE}


def _normalised(numbers: Mapping[str, Value]) -> Iterator[tuple[str, Value]]:
    found = dict(numbers)
    groups, chosen = found["n_group"], found["topk_group"]
    if found["topk_method"] == GREEDY or (isinstance(groups, int) and isinstance(chosen, int) and chosen >= groups):
        found |= {"n_group": 1, "topk_group": 1}
    if not found["first_k_dense_replace"]:
        del found["intermediate_size"]
    if found.pop("rope_type") == "default" or found["rope_factor"] == 1:
        found["rope_factor"] = 1.0
        found = {name: value for name, value in found.items() if name not in _YARN}
    yield from found.items()
