"""One training step of the Megatron model, by megatron-core's own schedule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.pipeline_parallel import get_forward_backward_func

from validation.candidate.place import Place
from validation.candidate.sequence import positions
from validation.candidate.versions import counted_tokens
from validation.case.case import Case
from validation.compare.sliced import SlicedFile


class Losses:
    """The sum of the token losses that count, and how many tokens that is, over this rank's micro-batches."""

    def __init__(self) -> None:
        self.total: torch.Tensor | None = None
        self.tokens = 0

    def add(self, losses: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Megatron's loss function: summed loss, number of tokens, and nothing to report."""
        total, tokens = (losses * mask).sum(), mask.sum().to(torch.int)
        self.total = total.detach().clone() if self.total is None else self.total + total.detach()
        self.tokens += int(tokens)
        return total, counted_tokens(tokens), {}

    def mean(self) -> torch.Tensor | None:
        """The mean over all ranks that hold a part of the batch; None where the last stage is elsewhere."""
        if self.total is None:
            return None
        both = torch.stack([self.total.double(), torch.tensor(float(self.tokens)).to(self.total).double()])
        torch.distributed.all_reduce(both, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        return both[0] / both[1]


def micro_batches(case: Case, batch: Path) -> Iterator[dict[str, torch.Tensor]]:
    """This rank's micro-batches in order: tokens, labels and mask of its sequences and positions."""
    place, file = Place.here(case), SlicedFile(batch)
    held = torch.tensor(positions(case.seq_length, case.layout.cp, place.cp))
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    for micro_batch in range(case.micro_batches):
        rows = slice(*place.batch_rows(micro_batch))
        data = {name: file.read(name, (rows, slice(None)))[:, held].to(device) for name in ("tokens", "labels", "mask")}
        yield {**data, "positions": held.to(device).expand(case.micro_batch_size, -1)}


def causal_mask(case: Case, device: torch.device) -> torch.Tensor:
    """Megatron's causal mask, [1, 1, sequence, sequence], True where attention is forbidden."""
    length = case.seq_length
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)[None, None]


def run_step(case: Case, chunks: list[DistributedDataParallel], batch: Path) -> Losses:
    """Forward and backward over all micro-batches, gradients finalised by megatron-core."""
    losses = Losses()

    def forward_step(data: Iterator[dict[str, torch.Tensor]], model: Any) -> Any:
        given = next(data)
        output = model(
            given["tokens"],
            given["positions"],
            causal_mask(case, given["tokens"].device),
            labels=given["labels"],
        )
        return output, lambda output: losses.add(output, given["mask"])

    for chunk in chunks:
        chunk.zero_grad_buffer()
    iterators = [micro_batches(case, batch) for _ in chunks]
    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iterators if len(iterators) > 1 else iterators[0],
        model=list(chunks) if len(chunks) > 1 else chunks[0],
        num_microbatches=case.micro_batches,
        seq_length=case.seq_length,
        micro_batch_size=case.micro_batch_size,
        forward_only=False,
    )
    return losses
