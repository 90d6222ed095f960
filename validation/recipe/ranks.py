"""Which ranks form a group, for each group that megatron-core makes.

Ranks are numbered in the order tp-cp-ep-dp-pp, tensor parallelism first. Dense layers divide the ranks of a pipeline stage by
tp, cp and dp, expert layers divide the same ranks by etp, ep and edp.

https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/parallel_state.py (`RankGenerator`)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import combinations, pairwise
from types import MappingProxyType

from validation.case.layout import Layout

Groups = tuple[tuple[int, ...], ...]
"""The groups of one kind. Each rank is in one of them."""
DENSE = {"tp": ("tp",), "cp": ("cp",), "dp": ("dp",), "tp-cp": ("tp", "cp"), "dp-cp": ("cp", "dp"), "pp": ("pp",)}
"""The groups of dense layers, with the degrees that run inside each."""
EXPERTS = {"ep": ("ep",), "etp": ("etp",), "edp": ("edp",), "tp-ep": ("etp", "ep")}
"""The groups of expert layers. `tp-ep` is upstream's name for etp and ep together."""
KINDS = (*DENSE, *EXPERTS)
IN_A_STAGE = tuple(kind for kind in KINDS if kind != "pp")
"""All groups but those of pipeline parallelism, which meet every other group in one rank."""
EQUAL, INSIDE, AROUND, CROSSING, APART = "equal", "inside", "around", "crossing", "apart"


def degrees(layout: Layout) -> dict[str, int]:
    """The degree of each kind of parallelism, `edp` (data parallelism of the experts) included."""
    experts, dp = layout.expert_tp * layout.ep, layout.data_parallel
    dense = {"tp": layout.tp, "cp": layout.cp, "dp": dp, "pp": layout.pp}
    return dense | {"etp": layout.expert_tp, "ep": layout.ep, "edp": layout.tp * layout.cp * dp // experts}


def size(layout: Layout, kind: str) -> int:
    """How many ranks a group of this kind has."""
    found = degrees(layout)
    return math.prod(found[word] for word in (DENSE | EXPERTS)[kind])


def groups(layout: Layout, kind: str) -> Groups:
    """The ranks of each group of one kind, in upstream's order. The expert degrees must fill a stage's ranks."""
    found = degrees(layout)
    order = ("tp", "cp", "dp", "pp") if kind in DENSE else ("etp", "ep", "edp", "pp")
    return _groups(tuple(found[word] for word in order), tuple(word in (DENSE | EXPERTS)[kind] for word in order))


def _groups(sizes: tuple[int, ...], inside: tuple[bool, ...]) -> Groups:
    """Ranks whose places outside the group are the same."""
    found: dict[tuple[int, ...], list[int]] = {}
    for rank in range(math.prod(sizes)):
        rest, outside = rank, []
        for degree, own in zip(sizes, inside, strict=True):
            rest, place = divmod(rest, degree)
            outside += [] if own else [place]
        found.setdefault(tuple(outside), []).append(rank)
    return tuple(tuple(ranks) for ranks in found.values())


def relation(first: Groups, second: Groups) -> str:
    """How groups of one kind lie to those of another.

    EQUAL: the same ranks. INSIDE: each group of the first is part of one of the second; AROUND: the other way. APART: two
    groups meet in one rank at most. CROSSING: some meet in several ranks, and neither contains the other.
    """
    meetings = len(set(zip(_places(first), _places(second), strict=True)))
    inside, around = meetings == len(first), meetings == len(second)
    if inside or around:
        return EQUAL if inside and around else INSIDE if inside else AROUND
    return APART if meetings == sum(map(len, first)) else CROSSING


def _places(found: Groups) -> list[int]:
    """Of each rank, the number of its group."""
    home = {rank: index for index, ranks in enumerate(found) for rank in ranks}
    return [home[rank] for rank in range(len(home))]


@lru_cache(maxsize=4096)
def relations(tp: int, cp: int, dp: int, etp: int, ep: int) -> Mapping[tuple[str, str], str]:
    """The relation of each two kinds of groups inside a pipeline stage that have two ranks or more."""
    tp, cp, dp, etp, ep = _folded(tp, cp, dp, etp, ep)
    layout = Layout(tp=tp, cp=cp, dp=dp, etp=etp, ep=ep)
    found = {kind: groups(layout, kind) for kind in IN_A_STAGE if size(layout, kind) > 1}
    return MappingProxyType({pair: relation(found[pair[0]], found[pair[1]]) for pair in combinations(found, 2)})


def _folded(tp: int, cp: int, dp: int, etp: int, ep: int) -> tuple[int, ...]:
    """The smallest degrees of the same relations, if each border between two degrees divides the next; else the degrees.

    Then a group is made of whole steps from one border to the next, and how many ranks a step has changes no relation.
    """
    borders = sorted({1, tp, tp * cp, tp * cp * dp, etp, etp * ep})
    if any(after % before for before, after in pairwise(borders)):
        return tp, cp, dp, etp, ep
    at = {border: 1 << index for index, border in enumerate(borders)}
    return at[tp], at[tp * cp] // at[tp], at[tp * cp * dp] // at[tp * cp], at[etp], at[etp * ep] // at[etp]
