"""What a layout has in common with smaller ones: which groups there are and how they lie, what pipeline stages hold.

Two layouts of the same signature take the same ways through megatron-core. They differ in how often.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from validation.case.layout import Layout
from validation.case.model import Model
from validation.recipe import ranks
from validation.recipe.pipeline import EVEN, Chunk, Split, chunks

NO, ONE, TWO, MORE, SEVERAL, YES = "no", "one", "two", "more", "several", "yes"
INSTANCE = "ranks of an optimizer instance"
SIZE, STAGE = "size of ", "a stage with "
"""What the names of some parts begin with; a kind of group or of chunk follows."""


@dataclass(frozen=True)
class Options:
    """What says, beside the degrees, which groups are used, and how.

    `context_parallelism` is upstream's cp_comm_type, `dispatcher` its moe_token_dispatcher_type,
    `instances` its num_distributed_optimizer_instances.
    """

    split: Split = EVEN
    distributed_optimizer: bool = False
    context_parallelism: str = "p2p"
    dispatcher: str = "alltoall"
    instances: int = 1


@dataclass(frozen=True)
class Full:
    """A model and a layout, at the size at which they are trained or at that of a stand-in."""

    model: Model
    layout: Layout
    options: Options = Options()
    seq_length: int | None = None
    micro_batch_size: int | None = None


@dataclass(frozen=True)
class Signature:
    """Parts by name, each with what it is. `size of tp` is `more`, `tp in ep` is `inside`, `a stage with experts` is `yes`."""

    parts: tuple[tuple[str, str], ...]

    def unlike(self, other: Signature) -> tuple[tuple[str, str, str], ...]:
        """Each part that differs, with what it is here and there; `no` for one that is missing.

        How groups lie is compared if there are both on both sides: that one is missing is said by its size.
        """
        mine, theirs = dict(self.parts), dict(other.parts)
        names = [*mine, *(name for name in theirs if name not in mine)]
        found = [(name, mine.get(name, NO), theirs.get(name, NO)) for name in names]
        return tuple(part for part in found if part[1] != part[2] and not (" to " in part[0] and NO in part))


def signature(full: Full) -> Signature:
    """The signature of a model under a layout. Raises UsageError if the layers do not fill the stages."""
    model, layout, options = full.model, full.layout, full.options
    found = chunks(model, layout, options.split)
    return Signature((*of_groups(layout).parts, *_stages(found, layout), *_shares(model, layout), *_choices(layout, options)))


@lru_cache(maxsize=4096)
def of_groups(layout: Layout) -> Signature:
    """What of the signature is about groups of ranks."""
    found = ranks.relations(layout.tp, layout.cp, layout.data_parallel, layout.expert_tp, layout.ep)
    sizes = [(SIZE + kind, count(ranks.size(layout, kind), (ONE, TWO, MORE))) for kind in ranks.KINDS]
    return Signature((*sizes, *((f"{first} to {second}", word) for (first, second), word in found.items())))


def of_stages(full: Full) -> Signature:
    """What of the signature is about pipeline stages."""
    return Signature(tuple(_stages(chunks(full.model, full.layout, full.options.split), full.layout)))


def distance(full: Signature, small: Signature) -> int:
    """How much a stand-in lacks. 0 if the signatures are equal; a group that is missing weighs more than one that is short."""
    return sum(_weight(*part) for part in full.unlike(small))


def _stages(found: tuple[Chunk, ...], layout: Layout) -> Iterable[tuple[str, str]]:
    counts = {chunk.layers for chunk in found if chunk.layers}
    yield "virtual stages", YES if layout.vpp > 1 else NO
    for kind in sorted({chunk.kind for chunk in found}):
        yield STAGE + kind, YES
    yield "uneven stages", YES if len(counts) > 1 else NO
    yield "layers of a stage", count(max(counts, default=0), (ONE, SEVERAL))
    yield "expert layers of a stage", count(max(chunk.experts for chunk in found), (ONE, SEVERAL))
    yield "MTP layers", count(sum(chunk.mtp for chunk in found), (ONE, SEVERAL))


def _shares(model: Model, layout: Layout) -> Iterable[tuple[str, str]]:
    experts = model.n_routed_experts // layout.ep if model.expert_blocks else 0
    limited = model.topk_group < model.n_group
    yield "experts of a rank", count(experts, (ONE, SEVERAL))
    yield "groups of experts", NO if not experts or model.n_group == 1 else "some are chosen" if limited else "all are chosen"
    yield "attention heads of a rank", count(model.num_attention_heads // layout.tp, (ONE, SEVERAL))


def _choices(layout: Layout, options: Options) -> Iterable[tuple[str, str]]:
    yield "sequence parallelism", YES if layout.uses_sequence_parallel else NO
    yield "distributed optimizer", YES if options.distributed_optimizer else NO
    yield "context parallelism", options.context_parallelism if layout.cp > 1 else NO
    yield INSTANCE, _of_an_instance(layout, options.instances)
    yield "token dispatcher", options.dispatcher if _is_spread(layout) else NO


def _of_an_instance(layout: Layout, instances: int) -> str:
    """How many data-parallel ranks share the state of the distributed optimizer; no if all do, or cannot be divided so."""
    shared = ranks.size(layout, "dp-cp"), ranks.size(layout, "edp")
    return NO if instances <= 1 or any(size % instances for size in shared) else count(shared[0] // instances, (ONE, SEVERAL))


def _is_spread(layout: Layout) -> bool:
    """Whether tokens leave their rank on the way to an expert."""
    return layout.ep * layout.expert_tp > 1


def count(number: int, words: tuple[str, ...]) -> str:
    """The word for a number: NO for 0, then `words` for 1, 2 and so on, the last for all above."""
    return words[min(number, len(words)) - 1] if number else NO


def _weight(name: str, full: str, small: str) -> int:
    """How much it matters that one part is another."""
    if name.startswith(SIZE):
        kind = name.removeprefix(SIZE)
        joined = len((ranks.DENSE | ranks.EXPERTS)[kind]) > 1
        return 40 if ONE in (full, small) else 1 if joined else 10 if kind == "pp" else 2
    if " to " in name:
        return 12
    if name.startswith(STAGE):
        return 8
    return _WEIGHTS[name]


_WEIGHTS = {
    "virtual stages": 30,
    "uneven stages": 5,
    "layers of a stage": 4,
    "expert layers of a stage": 4,
    "MTP layers": 15,
    "experts of a rank": 8,
    "groups of experts": 8,
    "attention heads of a rank": 2,
    "sequence parallelism": 30,
    "distributed optimizer": 30,
    "context parallelism": 30,
    "token dispatcher": 30,
    INSTANCE: 5,
}
