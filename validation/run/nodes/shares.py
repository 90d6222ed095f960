"""Which ranks run on which node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """The ranks of one node: `count` from `first` on."""

    node: int
    first: int
    count: int

    @property
    def ranks(self) -> range:
        """Their numbers."""
        return range(self.first, self.first + self.count)

    @property
    def words(self) -> str:
        """For a reader."""
        return f"rank {self.first}" if self.count == 1 else f"ranks {self.first} to {self.first + self.count - 1}"


def divided(ranks: int, nodes: int) -> tuple[Share, ...]:
    """As even as it goes, in order: the first nodes have one more, and nodes that would have none are left out."""
    each, more = divmod(ranks, nodes)
    counts = [each + (node < more) for node in range(nodes)]
    return tuple(Share(node, sum(counts[:node]), count) for node, count in enumerate(counts) if count)


def at(rank: int | None, shares: Sequence[Share]) -> Share | None:
    """The share that has this rank."""
    return next((share for share in shares if rank is not None and rank in share.ranks), None)
