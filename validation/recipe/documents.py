"""What a recipe says of the documents of a sequence, and the data shape that its cases have (validation.case.data).

Megatron-Core's GPTDataset makes three things of the tokens that end documents, the same in 0.16.1 and 0.19.2: a mask with which
no position attends to another document, position ids, and a mask of the loss.
https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/datasets/gpt_dataset.py
(`_get_ltor_masks_and_position_ids`)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from validation.case.case import Case
from validation.case.data import DOCUMENTS, FULL
from validation.case.preflight import RULES
from validation.recipe.beyond import DATA, LOSS, MASK, NO_MASK, POSITIONS, SKIPPED
from validation.recipe.recipe import Recipe, Setting
from validation.recipe.standin import StandIn
from validation.recipe.told import IDLE, REFUSED, SAME, SHAPED, UNREAD, Told

MASKLESS = (NO_MASK, SKIPPED)
NAMES = (*DATA, *MASKLESS)
_IGNORED = (
    "Transformer Engine, with which the recipe trains, is asked for a causal mask and ignores this one (Megatron-LM #2357); "
    "compared with a core attention that takes it"
)


def shape(recipe: Recipe) -> str:
    """What the sequences of a case of the recipe hold: several documents if it has a mask that keeps them apart."""
    names = {one.name for one in recipe.beyond}
    return DOCUMENTS if MASK in names and not names.intersection(MASKLESS) else FULL


def fitted(small: StandIn, recipe: Recipe) -> tuple[StandIn, str, str]:
    """The stand-in, what the sequences of its cases hold, and why they have one document though the recipe has several."""
    if (wanted := shape(recipe)) == FULL:
        return small, FULL, ""
    shaped = _shaped(small, recipe)
    case = shaped.case()
    case = replace(case, training=replace(case.training, data_shape=wanted))
    refused = next(filter(None, (rule(case) for rule in RULES)), "")
    return (small, FULL, refused) if refused else (shaped, wanted, "")


def _shaped(small: StandIn, recipe: Recipe) -> StandIn:
    """The stand-in with what its documents lose.

    A sequence of a batch of documents has no loss. As a micro-batch by itself it would have no mean MTP loss: 0 / 0 before
    0.17 (docs/findings/mtp-mean-of-no-targets.md). So micro-batches have two sequences there.
    """
    lost = list(small.lost)
    if LOSS not in {one.name for one in recipe.beyond}:
        lost.append("the loss of a document's last token counts at full size, and not here")
    batch, each = small.batch_size, small.micro_batch_size
    if recipe.loss == "mean" and small.model.num_nextn_predict_layers and each == 1:
        lost.append("a micro-batch has one sequence at full size, and 2 here: one without loss has no mean of its MTP loss")
        batch, each = 2 * batch, 2
    return replace(small, lost=tuple(lost), batch_size=batch, micro_batch_size=each)


def said(data_shape: str) -> str:
    """A line on what sequences hold; empty for one document each."""
    return "" if data_shape == FULL else f"sequences: several documents each, as with +{data_shape}"


def told(recipe: Recipe, case: Case, refused: str) -> Iterator[Told]:
    """What becomes of each of these settings in a case; `refused` says why it cannot have the recipe's shape."""
    for one in recipe.beyond:
        if one.name in NAMES:
            yield Told(one, *_told(one, recipe, case, refused))


def _told(one: Setting, recipe: Recipe, case: Case, refused: str) -> tuple[str, str]:
    if one.name in MASKLESS:
        return IDLE, "it makes no mask"
    if one.name == LOSS:
        return SAME, "the loss of every case leaves positions out"
    if one.name == POSITIONS:
        if recipe.model.get("index_topk") is not None and recipe.layout.cp > 1:
            return REFUSED, "sparse attention reads position ids with context parallelism, and no case has others"
        return UNREAD, "rotary positions are counted through the sequence, and nothing else reads position ids"
    if without := next((other for other in recipe.beyond if other.name in MASKLESS), None):
        return UNREAD, f"the dataset makes no mask ({without.origin.text}), so documents see each other"
    if refused:
        return REFUSED, f"in the stand-in: {refused}"
    return (REFUSED, _IGNORED) if recipe.implementation == "te" and not case.uses_te else (SHAPED, "")
