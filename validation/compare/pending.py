"""Comparisons that a GPU makes while the host goes on: asked for one by one, waited for many at a time.

Waiting for a GPU ends what is queued on it, and where ranks share one it waits for the others' turns, too: a thousand waits
take seconds. What is compared is copied, for the model may write over it, and kept until the answer is there: only a piece that
turns out wrong is looked at again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from validation.compare import fused, native
from validation.compare.difference import Difference, in_chunks, of_part
from validation.compare.extent import Extent, extent
from validation.compare.piece import Box

LARGEST = 64 << 20
"""Bytes of a tensor from which it is measured at once: its copy would take more than waiting."""
HELD = 512 << 20
"""Bytes of copies and of what they are compared with, at most one pair more: then all answers are waited for."""

Take = Callable[[Difference, str, Extent | None], None]
"""What is done with an answer: the difference, the digest of the candidate's bytes, and where it is wrong."""


@dataclass(frozen=True)
class _Asked:
    """A comparison under way. `row` has its sums, `left` the bytes of which the digest is made."""

    candidate: torch.Tensor
    reference: torch.Tensor
    box: Box
    exact: bool
    floor: float
    row: torch.Tensor
    left: torch.Tensor
    take: Take


class Pending:
    """The comparisons of one rank that are under way."""

    def __init__(self) -> None:
        self._asked: list[_Asked] = []
        self._bytes = 0

    @staticmethod
    def takes(candidate: torch.Tensor, reference: torch.Tensor) -> bool:
        """Whether the answer can wait: both are on one GPU, small, and there is a pass that the host need not wait for."""
        small = 0 < candidate.nbytes <= LARGEST
        return candidate.is_cuda and small and reference.shape == candidate.shape and fused.covers(reference)

    def ask(
        self, candidate: torch.Tensor, reference: torch.Tensor, box: Box, take: Take, exact: bool = False, floor: float = 0.0
    ) -> None:
        """Compare two tensors of one shape, of which the reference stays as it is; `take` gets the answer later."""
        copy = candidate.detach().clone(memory_format=torch.contiguous_format)
        row, left = fused.asked(copy.view(-1), reference.view(-1)), fused.left_of(copy)
        self._asked.append(_Asked(copy, reference, box, exact, floor, row, left, take))
        self._bytes += copy.nbytes + reference.nbytes
        if self._bytes > HELD:
            self.settle()

    def settle(self) -> None:
        """Wait for all that was asked, and hand over the answers in the order of asking."""
        asked, self._asked, self._bytes = self._asked, [], 0
        if not asked:
            return
        rows = torch.stack([one.row for one in asked]).tolist()
        lefts = torch.cat([one.left for one in asked]).cpu().split([len(one.left) for one in asked])
        for one, row, left in zip(asked, rows, lefts, strict=True):
            found = fused.sums_of(row)
            if all(map(math.isfinite, found.totals)):
                difference = of_part(found, one.candidate.numel(), one.box)
            else:
                difference = in_chunks(one.candidate.view(-1), one.reference.view(-1), one.box)
            where = extent(one.candidate, one.reference, one.box, difference, one.exact, one.floor)
            one.take(difference, _digest(one.candidate, left), where)


def _digest(tensor: torch.Tensor, left: torch.Tensor) -> str:
    """The tensor's digest, from what a kernel has left of its bytes, or from these themselves."""
    if fused.digests(tensor):
        return fused.digest_of(left)
    return native.digest_or_sha(left)
