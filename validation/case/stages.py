"""The stages of a model that is computed layer by layer. No torch.

A stage is a layer by its number in the checkpoint: the first has the embedding, the last the output head. A layer of
multi-token prediction is a stage of its own, with embedding and head; the main model's final norm is then of the stage before
it.
"""

from __future__ import annotations

from validation.case.model import Model
from validation.case.parameters import parameters

EMBEDDING = "model.embed_tokens.weight"


def of_stage(model: Model, stage: int) -> tuple[str, ...]:
    """The parameters that a stage is computed with, by the checkpoint's names."""
    named = [name for name, parameter in parameters(model).items() if parameter.layer == stage]
    embedding = [EMBEDDING] if stage == 0 or stage in model.mtp_layers else []
    norm = ["model.norm.weight"] if stage == model.num_hidden_layers - 1 else []
    head = ["lm_head.weight"] if stage == model.blocks[-1] else []
    return (*embedding, *named, *norm, *head)
