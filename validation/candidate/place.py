"""Where a rank's part of each probe lies in the whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from megatron.core import parallel_state

from validation.candidate.sequence import ranges
from validation.case.case import Case
from validation.case.data import PACKED_PADDED, regions
from validation.case.probes import Probe
from validation.case.vocabulary import is_masked
from validation.compare.piece import Box, share

WHOLE_SEQUENCE = (
    *("attention.query", "attention.key", "attention.value", "attention.core", "logits", "token_loss"),
    *("mtp.projection", "mtp.logits", "mtp.token_loss"),
    *("attention.projected_query", "attention.absorbed_query", "attention.absorbed_key"),
    *("indexer.query", "indexer.key", "indexer.weights", "indexer.scores", "indexer.keys"),
)
"""Probes inside a tensor-parallel region: heads, columns or vocabulary are cut there, the sequence is not."""


def device() -> torch.device:
    """Where this rank computes."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


@dataclass(frozen=True)
class Place:
    """This rank's coordinates in the layout."""

    case: Case
    tp: int
    cp: int
    dp: int

    @classmethod
    def here(cls, case: Case) -> Place:
        """From megatron-core's groups."""
        return cls(
            case,
            tp=parallel_state.get_tensor_model_parallel_rank(),
            cp=parallel_state.get_context_parallel_rank(),
            dp=parallel_state.get_data_parallel_rank(),
        )

    def batch_rows(self, micro_batch: int) -> tuple[int, int]:
        """The sequences of one micro-batch: each data-parallel rank has an unbroken run of them."""
        first, _ = share(self.case.batch_size, self.case.layout.data_parallel, self.dp)
        start = first + micro_batch * self.case.micro_batch_size
        return start, start + self.case.micro_batch_size

    def sequence_ranges(self, kind: str, micro_batch: int = 0, latent_cut: bool = False) -> list[tuple[int, int]]:
        """The positions held of a micro-batch, as runs in the order in which the rank holds them."""
        layout = self.case.layout
        cut = layout.uses_sequence_parallel and kind not in WHOLE_SEQUENCE and not latent_cut
        parts, part = (layout.tp, self.tp) if cut else (1, 0)
        return ranges(self.case.seq_length, layout.cp, self.cp, parts, part, self.document_ends(micro_batch))

    def document_ends(self, micro_batch: int) -> tuple[int, ...]:
        """Where the documents of a micro-batch end that context parallelism cuts one by one; empty if it cuts the sequence."""
        first, _ = self.batch_rows(micro_batch)
        return regions(self.case, first) if self.case.training.data_shape == PACKED_PADDED else ()

    def pieces(self, probe: Probe, tensor: torch.Tensor, micro_batch: int) -> Iterator[tuple[Box, torch.Tensor]]:
        """The boxes of a tensor of shape [batch, sequence, ...] and its part for each; zigzag makes more than one."""
        # Column-parallel down-projections cut the latent and gather the sequence; duplicated ones do the opposite.
        latent_cut = probe.axes[-1] == "latent" and tensor.shape[-1] != probe.shape[-1]
        rest = [self._range(axis, size, latent_cut) for axis, size in zip(probe.axes[2:], probe.shape[2:], strict=True)]
        runs = self.sequence_ranges(probe.kind, micro_batch, latent_cut)
        starts = itertools.accumulate((stop - start for start, stop in runs), initial=0)
        if sum(stop - start for start, stop in runs) != tensor.shape[1]:
            # Not the declared shape: say so with all of it, in one piece.
            yield (self.batch_rows(micro_batch), (runs[0][0], runs[-1][1]), *rest), tensor
            return
        for (start, end), local in zip(runs, starts, strict=False):
            # A layer of multi-token prediction computes positions, too, that have no token to predict.
            stop = min(end, probe.shape[1])
            if start < stop:
                yield (self.batch_rows(micro_batch), (start, stop), *rest), tensor[:, local : local + stop - start]

    def of_words(self, probe: Probe, tensor: torch.Tensor) -> torch.Tensor:
        """Logits, with 0 for the vocabulary's padding if the model masks that, be it in the output head or behind it."""
        if probe.axes[-1] != "vocabulary" or not is_masked(self.case):
            return tensor
        first, last = self._range("vocabulary", probe.shape[-1], latent_cut=False)
        padding = torch.arange(first, last, device=tensor.device) >= self.case.model.vocab_size
        return tensor.masked_fill(padding, 0) if len(padding) == tensor.shape[-1] else tensor

    def _range(self, axis: str, size: int, latent_cut: bool) -> tuple[int, int]:
        if axis in ("heads", "columns", "vocabulary") or (axis == "latent" and latent_cut):
            return share(size, self.case.layout.tp, self.tp)
        return 0, size
