"""Which layouts fit, and in which order they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from validation.case.layout import Layout
from validation.case.model import Model
from validation.case.vocabulary import rows as padded
from validation.plan import layouts
from validation.plan.estimate import Parts, Step, of_stages
from validation.plan.policy import Policy, Recompute
from validation.recipe.pipeline import Chunk, Split, chunks
from validation.recipe.signature import Full, Options

GIB = 2**30
VOCABULARY = 128
"""Megatron-LM's make_vocab_size_divisible_by."""


@dataclass(frozen=True)
class Question:
    """What is asked: a model on so many GPUs. `room` is the memory that weights and the rest may take, in GiB."""

    model: Model
    gpus: int
    per_node: int
    room: float
    seq_length: int
    micro_batch_size: int
    policy: Policy
    global_batch: int | None = None
    imbalance: float = 1.0
    vocabulary: int = VOCABULARY

    def full(self, layout: Layout, split: Split) -> Full:
        """The model under a layout as something that a stand-in stands for."""
        options = Options(split, self.policy.distributed, dispatcher=self.policy.dispatcher)
        return Full(self.model, layout, options, self.seq_length, self.micro_batch_size)


@dataclass(frozen=True)
class Fit:
    """A layout with the memory of one GPU of each pipeline stage, and the least recomputation with which it fits."""

    layout: Layout
    split: Split
    chunks: tuple[Chunk, ...]
    recompute: Recompute
    level: int
    stages: tuple[Parts, ...]

    @property
    def worst(self) -> int:
        """The stage that takes most, counted from 0."""
        return max(range(len(self.stages)), key=lambda stage: self.stages[stage].total)

    @property
    def mtp(self) -> int | None:
        """The stage that holds the MTP layers, if there are any."""
        found = [place % self.layout.pp for place, chunk in enumerate(self.chunks) if chunk.mtp]
        return found[0] if found else None

    @property
    def gib(self) -> float:
        """What the worst stage takes."""
        return self.stages[self.worst].total / GIB

    @property
    def key(self) -> tuple[Any, ...]:
        """A key to sort by: the least recomputation first, then the fewest tensor and context parallel ranks."""
        layout = self.layout
        return self.level, layout.tp * layout.cp, layout.expert_tp, layout.pp, layout.vpp, layout.ep


def all_layouts(question: Question) -> Iterator[Fit]:
    """Every layout, whether it fits or not."""
    for layout in layouts.layouts(question.model, question.gpus, question.per_node, question.seq_length):
        divided = layouts.split(question.model, layout)
        if divided is not None and (one := of_layout(question, layout, divided)) is not None:
            yield one


def of_layout(question: Question, layout: Layout, divided: Split) -> Fit | None:
    """A layout with the least recomputation that fits, else with the most; None if the batch does not divide."""
    step = _step(question, layout)
    if step is None:
        return None
    model = replace(question.model, vocab_size=padded(question.model.vocab_size, question.vocabulary, layout.tp))
    rows = chunks(model, layout, divided)
    found = None
    for level, recompute in enumerate(question.policy.recompute):
        stages = of_stages(model, layout, rows, question.policy, recompute, step)
        found = Fit(layout, divided, rows, recompute, level, stages)
        if found.gib <= question.room:
            break
    return found


def _step(question: Question, layout: Layout) -> Step | None:
    """The data of a step: enough micro-batches to fill the pipeline, if nobody says how many there are."""
    count, size = 4 * layout.pp, question.micro_batch_size
    if question.global_batch is not None:
        count, odd = divmod(question.global_batch, size * layout.data_parallel)
        if odd or not count or (layout.vpp > 1 and count % layout.pp):
            return None
    return Step(question.seq_length, size, count, question.imbalance, unfused=question.policy.unfused)
