"""How many micro-batches a pipeline rank has under way at once, by megatron-core's schedules.

https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/pipeline_parallel/schedules.py
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache


def peak(sizes: Sequence[float], rank: int, pp: int, micro_batches: int) -> float:
    """The most that a rank keeps at once; `sizes` has what each of its chunks keeps of a micro-batch."""
    found = under_way(rank, pp, len(sizes), micro_batches)
    return max(sum(count * size for count, size in zip(counts, sizes, strict=True)) for counts in found)


@lru_cache(maxsize=8192)
def under_way(rank: int, pp: int, vpp: int, micro_batches: int) -> tuple[tuple[int, ...], ...]:
    """How many micro-batches each chunk of a rank keeps at once; of several moments those that no other exceeds.

    Without virtual stages the first rank has `pp` micro-batches under way, the last one has one. With them it has more, and the
    schedule says of which chunk. https://arxiv.org/abs/2104.04473, section 2.2.
    """
    if vpp == 1:
        return ((min(micro_batches, pp - rank),),)
    steps = vpp * -(-micro_batches // pp) * pp
    warm_up = min(2 * (pp - rank - 1) + (vpp - 1) * pp, steps)
    now, found = [0] * vpp, dict[tuple[int, ...], None]()
    for step in range(warm_up):
        now[_chunk(step, pp, vpp)] += 1
    found[tuple(now)] = None
    for step in range(min(steps - warm_up, 2 * pp * vpp)):  # then it repeats
        now[_chunk(step + warm_up, pp, vpp)] += 1
        found[tuple(now)] = None
        now[vpp - 1 - _chunk(step, pp, vpp)] -= 1
    return tuple(one for one in found if not any(one != other and _exceeds(other, one) for other in found))


def _exceeds(more: tuple[int, ...], less: tuple[int, ...]) -> bool:
    return all(one >= other for one, other in zip(more, less, strict=True))


def _chunk(step: int, pp: int, vpp: int) -> int:
    """The chunk of a rank's n-th forward pass: pp micro-batches through each chunk in turn."""
    return step // pp % vpp
