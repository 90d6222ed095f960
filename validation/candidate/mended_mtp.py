"""Known upstream bugs of what MTP layers look ahead to, taken out of a rank (validation.candidate.mends holds the others)."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from torch.nn import functional

from validation.candidate import step
from validation.candidate.sequence import positions
from validation.candidate.versions import mtp_block
from validation.case.case import Case
from validation.case.data import ARE_PACKED


def within_documents(case: Case, tokens: Callable[[], int]) -> None:
    """roll_tensor moves tokens, targets and mask by one position over the whole sequence. Here what comes from another document
    becomes 0, as behind the sequence's end. It is called in the forward pass of a micro-batch, whose documents are known.
    Anything else that stands there is another bug's and stays.
    """
    roll = vars(importlib.import_module("megatron.core.transformer.multi_token_prediction"))["roll_tensor"]
    sound, ends = step.called, [torch.zeros((), dtype=torch.bool)]

    def called(case: Case, model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
        number = given["documents"]
        last = functional.pad(number[:, 1:] != number[:, :-1], (0, 1), value=True)
        ends[0] = last[:, positions(case.seq_length, case.layout.cp, parallel_state.get_context_parallel_rank())]
        return sound(case, model, given)

    def rolled(tensor: torch.Tensor, *given: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        moved, left = roll(tensor, *given, **named)
        if moved.shape != ends[0].shape:
            return moved, left  # a rank's part of the padding, which is a bug of its own
        within = moved.masked_fill(ends[0] & _comes_next(tensor, moved, case.layout.cp), 0)
        return within, left - (moved.sum() - within.sum())

    step.called = called
    everywhere("roll_tensor", roll, rolled)


def _comes_next(tensor: torch.Tensor, moved: torch.Tensor, ranks: int) -> torch.Tensor:
    """Where `moved` holds the next position of the sequence, or 0 behind its end; both are [batch, sequence].

    A context-parallel rank has two chunks. What follows a chunk is another rank's, and is taken for the next position.
    """
    if ranks == 1:
        return moved == functional.pad(tensor[:, 1:], (0, 1))
    pairs = zip(tensor.chunk(2, dim=1), moved.chunk(2, dim=1), strict=True)
    return torch.cat([functional.pad(moved[:, :-1] == held[:, 1:], (0, 1), value=True) for held, moved in pairs], 1)


_AHEAD: list[tuple[torch.Tensor, torch.Tensor | None]] = []
"""Where the tokens that each MTP layer takes in the micro-batch that is computed are padding, as its router wants it; and what
megatron-core tells it, None for nothing."""


def told_of_padding(case: Case, tokens: Callable[[], int]) -> None:
    """The padding is moved by roll_tensor as the tokens are, over the whole sequence or within packed documents, and only then
    cut for the ranks.
    """
    names = vars(importlib.import_module("megatron.core.transformer.multi_token_prediction"))
    roll, layer, sound = names["roll_tensor"], names["MultiTokenPredictionLayer"], step.called
    tells = "padding_mask" in inspect.signature(layer.forward).parameters

    def called(case: Case, model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
        # A defect of the user's may have lost it: then there is none here, either.
        moved = given["padding"].long() if "padding" in given else torch.zeros_like(given["tokens"])
        _AHEAD.clear()
        within: dict[str, Any] = {}
        if case.training.data_shape in ARE_PACKED:
            within = {"packed_seq_params": step.told_of_documents(case, given)}
        within |= {"shifts": -1, "dims": -1, "cp_group": parallel_state.get_context_parallel_group()}
        part = _of_this_rank(case, moved) if tells else None
        for _ in case.model.mtp_layers:
            moved, _ = roll(moved, **within)
            part = roll(part, **within)[0] if part is not None else None
            _AHEAD.append((_of_this_rank(case, moved.bool()), None if part is None else part.bool()))
        return sound(case, model, given)

    step.called = called


def _of_this_rank(case: Case, padding: torch.Tensor) -> torch.Tensor:
    if not case.layout.uses_sequence_parallel:
        return padding
    return padding.chunk(case.layout.tp, dim=1)[parallel_state.get_tensor_model_parallel_rank()].contiguous()


def takes_padding(case: Case, chunk: Any) -> None:
    """The experts of each MTP layer get the padding of the tokens that the layer takes, unless somebody else has told them."""
    blocks = (module.mtp for module in chunk.modules() if getattr(module, "mtp", None) is not None)
    for index, layer in enumerate(layer for block in blocks for layer in block.layers):

        def told(module: Any, given: Any, named: dict[str, Any], index: int = index) -> Any:
            right, left = _AHEAD[index]
            told = named.get("padding_mask")
            upstreams = told is None or (left is not None and torch.equal(told, left))
            return given, {**named, "padding_mask": right} if upstreams else named

        mtp_block(layer).mlp.register_forward_pre_hook(told, with_kwargs=True)


def gathered_without_a_sum(case: Case, tokens: Callable[[], int]) -> None:
    """Every rank has the whole gradient behind the gathered projection: the backward pass takes the rank's own part of it."""
    names = vars(importlib.import_module("megatron.core.transformer.multi_token_prediction"))
    names["all_gather_last_dim_from_tensor_parallel_region"] = gather_from_tensor_model_parallel_region


def everywhere(name: str, sound: Any, changed: Any) -> None:
    """Every module of megatron-core that has imported a function by its name gets another one."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("megatron.core") and vars(module).get(name) is sound:
            setattr(module, name, changed)


def embedding_is_marked(case: Case, chunk: Any) -> None:
    """The MTP stage's copy of the embedding gets the mark by which megatron-core knows it, as the first stage's has it."""
    embedding = getattr(chunk, "embedding", None)
    if embedding is not None:
        embedding.word_embeddings.weight.is_embedding_or_output_parameter = True
