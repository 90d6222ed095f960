"""Other weights in the place of those that are there, as a trainer hands them to a model that generates."""

from __future__ import annotations

import torch
from megatron.core.models.gpt import GPTModel

from validation.candidate.load import copy_weights
from validation.candidate.weights import Ranks, holdings, tensors
from validation.case.case import Case
from validation.compare.precision import as_stored
from validation.reference.checkpoint import Checkpoint

_ABSORBED = {".linear_kv_up_proj_linear.": ".linear_kv_up_proj."}
"""Names that a model has got with absorbing its weights -> those that they had."""


def copied(case: Case, chunk: GPTModel, checkpoint: Checkpoint) -> None:
    """Copy the checkpoint's weights into every parameter and buffer that the model has now, in place."""
    ranks, held = Ranks.here(), []
    for name, tensor in tensors(chunk):
        before = next((name.replace(now, then) for now, then in _ABSORBED.items() if now in name), name)
        held.append((tensor, holdings(before, tuple(tensor.shape), case.model, ranks)))
    # What was made in a forward pass, such as absorbed weights, torch lets nobody change outside of that mode.
    with as_stored(), torch.inference_mode():
        copy_weights(held, checkpoint)
