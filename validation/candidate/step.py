"""One training step of the Megatron model, by megatron-core's own schedule."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel import get_forward_backward_func

from validation.candidate.place import Place, device
from validation.candidate.sequence import positions
from validation.candidate.versions import counted_tokens, once_for_each_rank
from validation.case.case import Case
from validation.case.data import (
    ARE_PACKED,
    HAVE_PADDING,
    LEFT_PADDED,
    PACKED_PADDED,
    WITH_DOCUMENTS,
    tokens_end_before_padding,
)
from validation.case.depth import FORWARD
from validation.case.errors import EnvironmentMissing
from validation.compare.sliced import SlicedFile
from validation.reference.batch import other_documents, own_positions


class Losses:
    """Megatron's loss function, and what it has seen: the losses of this rank's micro-batches and what divides them.

    Per token, the sum of the losses that count and their number. As a mean of means, each micro-batch's own mean; under
    context parallelism its tokens lie on several ranks, whose gradients megatron-core averages over all of them, so that
    the local sum counts once for each.
    """

    def __init__(self, case: Case) -> None:
        self._means = case.training.loss == "mean"
        self._sums: list[torch.Tensor] = []

    def add(self, losses: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Summed loss, the number that divides it, and nothing to report."""
        total, tokens = (losses * mask).sum(), mask.sum().to(torch.int)
        if self._means:
            torch.distributed.all_reduce(tokens, group=parallel_state.get_context_parallel_group())
            self._sums.append(torch.stack([(total.detach() / tokens.clamp(min=1)).double(), _inverse_of_ranks(total)]))
            return once_for_each_rank(total), tokens, {}
        self._sums.append(torch.stack([total.detach().double(), tokens.to(total).double()]))
        return total, counted_tokens(tokens), {}

    def mean(self) -> torch.Tensor | None:
        """The loss over all ranks that hold a part of the batch; None where the last stage is elsewhere."""
        if not self._sums:
            return None
        both = torch.stack(self._sums).sum(0)
        torch.distributed.all_reduce(both, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        return both[0] / both[1]


def _inverse_of_ranks(like: torch.Tensor) -> torch.Tensor:
    """What each context-parallel rank adds to the number of micro-batches, which all of them see."""
    return torch.tensor(1 / parallel_state.get_context_parallel_world_size()).to(like).double()


def loss_divisor(case: Case, batch: Path) -> int:
    """What megatron-core divides gradients by after the backward pass: all tokens that count, or the ranks it averages over."""
    if case.training.loss == "mean":
        return case.layout.data_parallel * case.layout.cp
    return counted(batch, 0)


@functools.cache
def counted(batch: Path, step: int) -> int:
    """How many tokens of a step, counted from 0, count in its loss, over all ranks."""
    return int(SlicedFile(batch).read(f"{step}/mask").sum())


def micro_batches(case: Case, batch: Path, step: int) -> Iterator[dict[str, torch.Tensor]]:
    """This rank's micro-batches of a step in order: tokens, labels and mask of its sequences and positions.

    If a position does not see all before it, `documents` has the documents of whole sequences, and positions are counted
    within them. If there is any padding, `padding` is where there is no token, and `real` where there is one in whole
    sequences.
    """
    place, file = Place.here(case), SlicedFile(batch, device())
    for micro_batch in range(case.micro_batches):
        ends = place.document_ends(micro_batch)
        held = torch.tensor(positions(case.seq_length, case.layout.cp, place.cp, ends)).to(file.device)
        rows = slice(*place.batch_rows(micro_batch))
        index = (rows, slice(None))
        names = ("tokens", "labels", "mask")
        data = {name: file.read(f"{step}/{name}", index)[:, held] for name in names}
        data["positions"] = held.expand(case.micro_batch_size, -1)
        if case.training.data_shape in HAVE_PADDING:
            data["real"] = file.read(f"{step}/real", index)
            data["padding"] = ~data["real"][:, held]
        if case.training.data_shape in (*WITH_DOCUMENTS, LEFT_PADDED, PACKED_PADDED):
            data["documents"] = file.read(f"{step}/documents", index)
            data["positions"] = own_positions(data["documents"])[:, held]
        yield data


def causal_mask(case: Case, device: torch.device) -> torch.Tensor:
    """Megatron's causal mask, [1, 1, sequence, sequence], True where attention is forbidden."""
    length = case.seq_length
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)[None, None]


def attention_mask(case: Case, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mask of a micro-batch, [1 or batch, 1, sequence, sequence], True where attention is forbidden.

    Under context parallelism it is that of the whole sequence, too.
    """
    mask = causal_mask(case, given["tokens"].device)
    return mask | other_documents(given["documents"]) if "documents" in given else mask


def called(case: Case, model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """The forward pass of one micro-batch: token losses, or hidden states where the model has no output head.

    `model` may be its method that makes a plan of the pass.
    """
    output: torch.Tensor = model(
        given["tokens"],
        given["positions"],
        None if case.training.data_shape in ARE_PACKED else attention_mask(case, given),
        labels=given["labels"],
        loss_mask=given["mask"].float(),
        **({"padding_mask": _padding_mask(case, model, given["padding"])} if "padding" in given else {}),
        **({"packed_seq_params": told_of_documents(case, given)} if case.training.data_shape in ARE_PACKED else {}),
    )
    return output


def told_of_documents(case: Case, given: dict[str, torch.Tensor]) -> PackedSeqParams:
    """What megatron-core is told of the documents of a packed micro-batch."""
    real = given.get("real")
    if real is not None and not tokens_end_before_padding(case):
        real = torch.ones_like(real)
    return packed(given["documents"], real)


def packed(documents: torch.Tensor, real: torch.Tensor | None = None) -> PackedSeqParams:
    """Where the documents of one sequence, [1, sequence], begin and end, as megatron-core is told of packed sequences.

    Padded ones end once where their tokens would end without any padding, and once where they end in the sequence.
    """
    _, number, lengths = torch.unique_consecutive(documents, return_inverse=True, return_counts=True)
    longest, padded = int(lengths.max()), _ends(lengths)
    ends = padded if real is None else _ends(torch.bincount(number[real], minlength=len(lengths)))
    more = {} if real is None else {"cu_seqlens_q_padded": padded, "cu_seqlens_kv_padded": padded}
    told = PackedSeqParams(qkv_format="thd", cu_seqlens_q=ends, cu_seqlens_kv=ends, max_seqlen_q=longest, max_seqlen_kv=longest)
    return dataclasses.replace(told, **more)


def _ends(lengths: torch.Tensor) -> torch.Tensor:
    """Of documents one behind the other, from 0 on."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def _padding_mask(case: Case, model: Any, padding: torch.Tensor) -> torch.Tensor:
    """What a model chunk is given of the padding, [batch, sequence].

    The first stage cuts it for sequence parallelism as it cuts the embeddings. Later ones take it as it is, and their router
    wants it cut: https://github.com/NVIDIA/Megatron-LM/pull/5563. Raises EnvironmentMissing if megatron-core has no such mask.
    """
    if "padding_mask" not in inspect.signature(GPTModel.forward).parameters:
        raise EnvironmentMissing(
            f"this megatron-core takes no padding_mask, so that padding would count as tokens; +{case.training.data_shape} "
            "needs 0.16 or newer"
        )
    if not case.layout.uses_sequence_parallel or _unwrapped(model).pre_process:
        return padding
    rank, parts = parallel_state.get_tensor_model_parallel_rank(), case.layout.tp
    return padding.chunk(parts, dim=1)[rank].contiguous()


def _unwrapped(model: Any) -> Any:
    """The model chunk in what is around it, or whose method it is. megatron-core's own unwrap_model is not in 0.13."""
    model = getattr(model, "__self__", model)
    while hasattr(model, "module"):
        model = model.module
    return model


def run_step(
    case: Case,
    chunks: list[DistributedDataParallel],
    batch: Path,
    step: int = 0,
    *,
    alone: bool = False,
    zeroed: Callable[[], None] = lambda: None,
) -> Losses:
    """Forward and backward over all micro-batches of a step, counted from 0, gradients finalised by megatron-core.

    Forward `alone` if so asked, or if that is where the case ends. `zeroed` is called when the gradients have been made 0.
    """
    alone = alone or case.upto == FORWARD
    losses = Losses(case)

    def forward_step(data: Iterator[dict[str, torch.Tensor]], model: Any, return_schedule_plan: bool = False) -> Any:
        given = next(data)
        output = called(case, model.build_schedule_plan if return_schedule_plan else model, given)
        return output, lambda output: losses.add(output, given["mask"])

    for chunk in () if alone else chunks:
        chunk.zero_grad_buffer()
    zeroed()
    iterators = [micro_batches(case, batch, step) for _ in chunks]
    with torch.set_grad_enabled(not alone):
        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=list(chunks) if len(chunks) > 1 else chunks[0],
            num_microbatches=case.micro_batches,
            seq_length=case.seq_length,
            micro_batch_size=case.micro_batch_size,
            forward_only=alone,
        )
    return losses
