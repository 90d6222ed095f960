"""Between dispatch and combine, in isolated cases: the rows that a rank's experts are given, and those that they return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from validation.candidate.place import Place
from validation.candidate.recorder import Recorder
from validation.case.plural import many
from validation.case.probes import Probe
from validation.compare.piece import Box
from validation.compare.precision import as_stored
from validation.reference.store import Reference

AT_ONCE = 1 << 24
"""Elements that are laid out by token and expert at a time, most of them zero."""


@dataclass(frozen=True)
class Rows:
    """Whose a rank's rows are, in the order in which they lie: sequence, position and expert of each, [rows].

    `boxes` are the tokens that the rank may be sent, as runs of sequences and positions.
    """

    sequence: torch.Tensor
    position: torch.Tensor
    expert: torch.Tensor
    boxes: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    experts: tuple[int, int]


@dataclass(frozen=True)
class Known:
    """What the reference has for some sequences from `first` on: a value for every token and each expert that it goes to.

    `values` are [sequences, positions, k, hidden], or 1 in place of k where they are alike; `chosen` the experts in order,
    [sequences, positions, k].
    """

    first: int
    values: torch.Tensor
    chosen: torch.Tensor

    def of(self, rows: Rows, own: torch.Tensor, *, elsewhere: bool = False) -> torch.Tensor:
        """The rows' values, [rows, hidden], zero if they are `elsewhere`; their `own` where the reference has no such token or
        sends it to other experts.
        """
        sequence, known = rows.sequence - self.first, rows.position < self.chosen.shape[1]
        position = rows.position.where(known, torch.zeros_like(rows.position))
        matches = self.chosen[sequence, position] == rows.expert[:, None]
        slot = matches.int().argmax(1) if self.values.shape[2] > 1 else torch.zeros_like(sequence)
        values = self.values[sequence, position, slot].to(own)
        return (torch.zeros_like(own) if elsewhere else values).where((known & matches.any(1))[:, None], own)

    def laid_out(self, box: Box) -> torch.Tensor:
        """The values in a box of [sequences, positions, experts, hidden], zero where a token does not go to an expert."""
        (row, row_end), (start, stop), (expert, expert_end), _ = box
        part = slice(row - self.first, row_end - self.first), slice(start, stop)
        chosen, values = self.chosen[part], self.values[part].expand(-1, -1, self.chosen.shape[2], -1)
        found = values.new_zeros(*chosen.shape[:2], expert_end - expert, values.shape[3])
        here = (chosen >= expert) & (chosen < expert_end)
        sequence, position, slot = here.nonzero().unbind(1)
        found[sequence, position, chosen[here] - expert] = values[sequence, position, slot]
        return found


class Dispatched:
    """One layer's rows of one micro-batch, compared with the reference's, and their substitutes."""

    def __init__(self, probe: Probe, recorder: Recorder, reference: Reference, divisor: float) -> None:
        self._probe, self._recorder, self._reference, self._divisor = probe, recorder, reference, divisor
        self._prefix = probe.name.removesuffix(".routed")
        # Where an expert is cut over ranks each makes a summand; which of them has all of the reference does not matter.
        self._cut = parallel_state.get_expert_tensor_parallel_world_size() > 1
        self._first = parallel_state.get_expert_tensor_parallel_rank() == 0

    def forward(self, kind: str, rows: Rows, tensor: torch.Tensor, compare: bool) -> torch.Tensor:
        """What goes on in place of `tensor`, [rows, hidden]; it is compared first where asked for.

        `kind` is `dispatched` or `experts`, which makes summands where experts are cut.
        """
        made = kind == "experts"
        key = f"{self._prefix}.experts" if made else f"{self._prefix.removesuffix('.moe')}.mlp_norm"
        known = self._known(self._reference.probes, key, rows, each=made)
        return self._gone_through(f"{self._prefix}.{kind}", rows, tensor, known, made, compare)

    def backward(self, kind: str, rows: Rows, gradient: torch.Tensor) -> torch.Tensor:
        """The same for the gradient that reaches it, always compared; here what was dispatched has summands."""
        made = kind == "dispatched"
        key = f"{self._prefix}.{'dispatched' if made else 'routed'}"
        known = self._known(self._reference.probe_gradients, key, rows, each=made, scale=self._divisor)
        return self._gone_through(f"probe_gradients/{self._prefix}.{kind}", rows, gradient, known, made, compare=True)

    @torch.no_grad()
    def _gone_through(
        self, name: str, rows: Rows, tensor: torch.Tensor, known: Known, summand: bool, compare: bool
    ) -> torch.Tensor:
        with as_stored():
            if len(tensor) != len(rows.expert):
                self._recorder.problem(name, f"{many(len(tensor), 'row')} where the routing says {len(rows.expert)}")
                return tensor.detach()
            if compare:
                self._compare(name, rows, tensor, known, summand)
            return known.of(rows, tensor.detach(), elsewhere=summand and self._cut and not self._first)

    def _compare(self, name: str, rows: Rows, tensor: torch.Tensor, known: Known, summand: bool) -> None:
        whole = tensor.detach().clone()
        if summand and self._cut:
            dist.all_reduce(whole, group=parallel_state.get_expert_tensor_parallel_group())
        for box in self._boxes(rows, tensor.shape[1]):
            self._recorder.measure(name, _laid_out(whole, rows, box), box, known.laid_out(box))

    def _boxes(self, rows: Rows, hidden: int) -> Iterator[Box]:
        first, behind = rows.experts
        for sequences, (start, end) in rows.boxes:
            stop = min(end, self._probe.shape[1])
            step = max(1, AT_ONCE // ((sequences[1] - sequences[0]) * max(1, stop - start) * hidden))
            for expert in range(first, behind, step) if start < stop else ():
                yield sequences, (start, stop), (expert, min(expert + step, behind)), (0, hidden)

    def _known(self, file: Path, key: str, rows: Rows, each: bool, scale: float = 1) -> Known:
        """The reference's values of all sequences that the rows may be of; `each` says that every expert has its own."""
        first = min(start for (start, _), _ in rows.boxes)
        part = slice(first, max(stop for (_, stop), _ in rows.boxes))
        with as_stored(), torch.no_grad():
            values = self._read(file, key, part)
            values = values.double() * scale if scale != 1 else values
            chosen = self._read(self._reference.routing, f"{self._probe.layer}/experts", part)
        device = rows.expert.device
        return Known(first, (values if each else values.unsqueeze(2)).to(device), chosen.to(device))

    def _read(self, file: Path, key: str, part: slice) -> torch.Tensor:
        opened = self._recorder.file(file)
        return opened.read(key, (part, *(slice(0, size) for size in opened.shape(key)[1:])))


def _laid_out(tensor: torch.Tensor, rows: Rows, box: Box) -> torch.Tensor:
    (row, row_end), (start, stop), (expert, expert_end), (_, hidden) = box
    here = (rows.sequence >= row) & (rows.sequence < row_end) & (rows.position >= start) & (rows.position < stop)
    here &= (rows.expert >= expert) & (rows.expert < expert_end)
    found = tensor.new_zeros(row_end - row, stop - start, expert_end - expert, hidden)
    found[rows.sequence[here] - row, rows.position[here] - start, rows.expert[here] - expert] = tensor[here]
    return found


@torch.no_grad()
def rows_of(moe: Any, place: Place, micro_batch: int, chosen: torch.Tensor, dispatcher: str) -> Rows:
    """The rows that a rank's experts get in one call; `chosen` says where its own tokens go, [sequence * batch, experts].

    Asked of all ranks that send tokens here, by a collective of our own: expert by expert, within one by the rank that sends,
    within that in the order of its tokens.
    """
    with as_stored():
        first, behind = place.batch_rows(micro_batch)
        runs = place.sequence_ranges("moe.router.experts", micro_batch)
        positions = torch.tensor([position for run in runs for position in range(*run)], device=chosen.device)
        sequences = torch.arange(first, behind, device=chosen.device)
        tokens = torch.stack(torch.broadcast_tensors(sequences[None, :], positions[:, None]), -1).view(-1, 2)
        tokens, going = _of_all(tokens.contiguous(), dispatcher), _of_all(chosen.to(torch.uint8), dispatcher).bool()
        mine = sorted(moe.local_expert_indices)
        expert, source, token = going[..., mine[0] : mine[-1] + 1].permute(2, 0, 1).nonzero().unbind(1)
        sequence, position = tokens[source, token].unbind(1)
    boxes = tuple(dict.fromkeys(box for sender in tokens for box in _boxes(sender)))
    return Rows(sequence, position, expert + mine[0], boxes, (mine[0], mine[-1] + 1))


def _of_all(tensor: torch.Tensor, dispatcher: str) -> torch.Tensor:
    """The tensor of every rank that sends tokens to this one's experts, in the order in which their rows lie."""
    group = parallel_state.get_expert_tensor_and_model_parallel_group()
    found = tensor.new_empty(group.size(), *tensor.shape)
    dist.all_gather(list(found.unbind(0)), tensor.contiguous(), group=group)
    if dispatcher == "alltoall":
        # It sends over the expert-parallel ranks first, then gathers over those that share an expert.
        cut = parallel_state.get_expert_tensor_parallel_world_size()
        return found.unflatten(0, (-1, cut)).transpose(0, 1).flatten(0, 1)
    return found


def _boxes(tokens: torch.Tensor) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Runs of one sender's tokens, [tokens, 2]: all its sequences, positions without a gap."""
    sequences, positions = (sorted({int(value) for value in column}) for column in tokens.unbind(1))
    starts = [position for position in positions if position - 1 not in set(positions)]
    stops = [position + 1 for position in positions if position + 1 not in set(positions)]
    for start, stop in zip(starts, stops, strict=True):
        yield (sequences[0], sequences[-1] + 1), (start, stop)
