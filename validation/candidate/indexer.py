"""What sparse attention (DSA) computes in megatron-core, seen as it runs, and its choice of keys made for it.

The indexer's tensors are no gradient's: its loss is off, and megatron-core detaches what it is given.
"""

from __future__ import annotations

import functools
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import torch

from validation.candidate.place import Place, device
from validation.candidate.recorder import Recorder
from validation.candidate.replay import FLIPS
from validation.case.case import Case
from validation.case.probes import Probe
from validation.compare.observe import Indexer
from validation.compare.piece import slices
from validation.compare.precision import as_stored
from validation.reference.keys import by_key, keys_of, margin_of
from validation.reference.store import Reference

Record = Callable[[str, torch.Tensor], torch.Tensor]
"""Takes a probe's name and a tensor of shape [sequence, batch, ...]."""
Choose = Callable[[int, int, torch.Tensor, torch.Tensor], torch.Tensor]
"""From a layer, a micro-batch, scores and the indices that they chose, [batch, sequence, ...], to the indices to go on with."""


class Keys:
    """The choices of one chunk's indexers; their own in fp64, isolated cases aside."""

    def __init__(self, case: Case, place: Place, recorder: Recorder, reference: Reference) -> None:
        self._place, self._recorder, self._reference = place, recorder, reference
        self._replaying = case.precision != "fp64" or case.isolated
        self.step = 1
        self._again: dict[int, deque[int]] = defaultdict(deque)

    def entered(self, running: Callable[[], int | None], layer: int) -> int:
        """The micro-batch of an attention that is called: `running`'s, or the next of those if the backward pass calls it."""
        micro_batch = running()
        if micro_batch is None:
            return self._again[layer].popleft()
        if not torch.is_grad_enabled():
            self._again[layer].append(micro_batch)
        return micro_batch

    def replayed(self, layer: int, micro_batch: int) -> torch.Tensor | None:
        """The reference's choice for the sequences of a micro-batch, [batch, sequence, k]; None if the own counts."""
        if not (self._replaying and self.step):
            return None
        with as_stored():
            file, name = self._recorder.file(self._reference.routing), keys_of(layer, self.step)
            _, length, k = file.shape(name)
            rows = slice(*self._place.batch_rows(micro_batch))
            return file.read(name, (rows, slice(0, length), slice(0, k))).to(device())

    def compare_margins(self, probe: Probe, own: torch.Tensor, micro_batch: int) -> None:
        """Report by how much the reference's choice could have been another, for each query that chose otherwise.

        `own` is the indexer's own choice as a map, [batch, sequence, keys].
        """
        if not self._replaying:
            return
        with as_stored(), torch.no_grad():
            for box, part in self._place.pieces(probe, own, micro_batch):
                reference = self._recorder.file(self._reference.probes).read(probe.name, slices(box)).to(part.device)
                margin = self._recorder.file(self._reference.routing).read(margin_of(probe.layer or 0), slices(box[:2]))
                flipped = (part != reference).any(-1)
                found = torch.where(flipped, margin.to(part.device), torch.zeros((), dtype=margin.dtype, device=part.device))
                self._recorder.measure(f"{FLIPS}{probe.name}", found, box[:2], torch.zeros_like(found))


def watch(attention: Any, prefix: str, record: Record, entered: Callable[[int], int], chosen: Choose) -> None:
    """Hand on what one attention with an indexer computes. `entered` takes the layer and says which micro-batch it is."""
    core, layer = attention.core_attention, int(prefix.split(".")[1])
    indexer, attend = core.indexer, core.forward
    before_topk = indexer.forward_before_topk

    def seen_before_topk(*args: Any, **kwargs: Any) -> Any:
        query, key, weights = before_topk(*args, **kwargs)
        return record(f"{prefix}.indexer.query", query), record(f"{prefix}.indexer.key", key), weights

    def weighted(module: Any, arguments: Any, output: Any) -> None:
        record(f"{prefix}.indexer.weights", output[0])

    def projected(module: Any, arguments: Any, output: Any) -> Any:
        return (record(f"{prefix}.attention.projected_query", output[0]), *output[1:])

    def given(module: Any, arguments: Any) -> None:
        query, key = arguments[:2]
        record(f"{prefix}.attention.absorbed_query", query)
        record(f"{prefix}.attention.absorbed_key", key.squeeze(2))

    def seen_attend(*args: Any, **kwargs: Any) -> Any:
        with Indexer(functools.partial(chosen, layer, entered(layer))):
            return attend(*args, **kwargs)

    indexer.forward_before_topk, core.forward = seen_before_topk, seen_attend
    indexer.linear_weights_proj.register_forward_hook(weighted)
    attention.linear_q_up_proj.register_forward_hook(projected)
    core.register_forward_pre_hook(given)


def as_probes(scores: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and choice as they are compared: 0 and not chosen are the keys behind a query."""
    there = scores != float("-inf")
    return scores.masked_fill(~there, 0.0), by_key(indices, scores.shape[-1]) & there
