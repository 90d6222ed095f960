"""The stand-in: the smallest model and layout that take the ways through megatron-core that a recipe's full size takes.

`stand_in` compares the signatures of all layouts up to MOST_RANKS ranks, with degrees up to 4, with that of the full one. It
takes the nearest; of several the one with the fewest ranks, then with the fewest layers, then with the smallest degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from validation.case import numbers
from validation.case.case import DEFAULT_SEED, Case
from validation.case.degrees import ep_divides, etp_divides, experts_fill_ranks, tp_divides, vpp_needs_pp
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.model import Model
from validation.case.pipeline_layout import FIELD
from validation.case.plural import many
from validation.case.preflight import (
    RULES,
    enough_experts_in_chosen_groups,
    group_scores_agree,
    groups_divide,
    positive_numbers,
    scores_are_normalised,
)
from validation.case.preset import Preset
from validation.case.training import OPTIONS, Training
from validation.recipe import sentences
from validation.recipe.pipeline import EVEN, Split, chunks
from validation.recipe.ranks import degrees
from validation.recipe.signature import Full, Options, distance, of_groups, of_stages, signature
from validation.recipe.small import MOST_INSTANCES, SEQUENCE, micro_batches, sequence_length, small
from validation.recipe.stages import Stages, candidates, counts

MOST_RANKS = 16
"""Of a stand-in: what two cores run in a minute or two."""
_DEGREES = (1, 2, 3, 4)
_PIPELINES = ((1, 1), *product(_DEGREES[1:], (1, 2)))
"""pp and vpp of a stand-in."""
_FAR = 1 << 20
_CHOICE = (groups_divide, enough_experts_in_chosen_groups)
_FULL_SIZE = (
    positive_numbers,
    *_CHOICE,
    scores_are_normalised,
    group_scores_agree,
    vpp_needs_pp,
    tp_divides,
    etp_divides,
    ep_divides,
    experts_fill_ranks,
)
"""The rules that full size must keep. The others are about what Plumbline can run, and hold for the stand-in."""
_ANY_LAYOUT = (positive_numbers, *numbers.RULES, *_CHOICE)
"""The rules that a model must keep, whatever its layout."""


@dataclass(frozen=True)
class StandIn:
    """A small model and layout in place of the full ones.

    `batch_size` counts sequences over all data-parallel ranks. `lost` says what of the signature the stand-in lacks, a
    sentence each; it is empty if the signatures are equal. `limits` says what its size hides.
    """

    full: Full
    layout: Layout
    model: Model
    split: Split
    batch_size: int
    micro_batch_size: int
    seq_length: int
    lost: tuple[str, ...]
    limits: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether full size and stand-in have the same signature."""
        return not self.lost

    @property
    def training(self) -> Training:
        """The options of a step that the stand-in's stages, optimizer and dispatcher are."""
        return _training(self.itself)

    @property
    def itself(self) -> Full:
        """The stand-in as something to stand in for."""
        options = replace(self.full.options, split=self.split)
        return Full(self.model, self.layout, options, self.seq_length, self.micro_batch_size)

    @property
    def micro_batches(self) -> int:
        """Forward passes of one step on each data-parallel rank."""
        return self.batch_size // (self.micro_batch_size * self.layout.data_parallel)

    def preset(self, name: str) -> Preset:
        """Model and data as a preset of that name."""
        return Preset(name, self.model, self.batch_size, self.micro_batch_size, self.seq_length)

    def case(self, name: str = "stand-in", precision: str = "fp64", seed: int = DEFAULT_SEED) -> Case:
        """The case on the CPU."""
        return _case(self.itself, self.batch_size, name=name, precision=precision, seed=seed)

    def describe(self) -> str:
        """Full size and stand-in, what is lost and what is hidden, a line each."""
        data = f"{many(self.batch_size, 'sequence')} in {many(self.micro_batches, 'micro-batch', 'micro-batches')} a rank"
        rows = [f"full size: {sentences.inventory(self.full)}", f"stand-in:  {sentences.inventory(self.itself)} ({data})"]
        rows += [f"lost:      {sentence}" for sentence in self.lost] or ["kept:      every part of the signature"]
        return "\n".join([*rows, *(f"not shown: {sentence}" for sentence in self.limits)])


def stand_in(full: Full, most_ranks: int = MOST_RANKS) -> StandIn:
    """The stand-in for a model under a layout. Raises UsageError if they do not fit each other, or nothing stands for them."""
    check(full)
    found = _nearest(full, most_ranks)
    if found is None:
        unable = f"nothing up to {many(most_ranks, 'rank')} can stand for layout {full.layout.name} of this model"
        raise UsageError(_why_not_alone(full) or unable)
    return _described(full, found)


def _why_not_alone(full: Full) -> str | None:
    """Why the small model runs not even on one rank: then no layout is to blame."""
    made = (_small(full, Layout(), stages) for stages in candidates(full.model, 1, 1, ()))
    said = (rule(_case(one, _batch(one))) for one in made for rule in RULES)
    return next(filter(None, said), None)


def _described(full: Full, found: Full) -> StandIn:
    lost = sentences.lost(signature(full).unlike(signature(found)))
    return StandIn(
        full,
        found.layout,
        found.model,
        found.options.split,
        _batch(found),
        found.micro_batch_size or 1,
        found.seq_length or 1,
        lost,
        sentences.limits(full, found),
    )


def check(full: Full) -> None:
    """Raises UsageError where a rule of megatron-core's refuses the full size. Upstream pads the vocabulary by itself."""
    padded = replace(full.model, vocab_size=full.layout.tp)
    case = _case(replace(full, model=padded), full.layout.data_parallel)
    for rule in _FULL_SIZE:
        if sentence := rule(case):
            raise UsageError(sentence)


def check_model(model: Model) -> None:
    """Raises UsageError if no layout has a model of these numbers."""
    case = _case(Full(model, Layout(), Options(EVEN)), 1)
    if sentence := next(filter(None, (rule(case) for rule in _ANY_LAYOUT)), None):
        raise UsageError(sentence)


def _nearest(full: Full, most_ranks: int) -> Full | None:
    """The nearest that runs. What groups alone lack says how near a layout can be: those that cannot be nearer are left out."""
    wanted, groups = signature(full), of_groups(full.layout)
    stages = {word: _best_stages(full, *word) for word in _PIPELINES}
    layouts = [_layout(full, *word, *degrees) for word in _PIPELINES for degrees in _stage_degrees(most_ranks // word[0])]
    best: tuple[tuple[int, ...], Full | None] = ((_FAR,), None)
    for bound, layout in sorted(((distance(groups, of_groups(one)), one) for one in layouts), key=lambda found: found[0]):
        if bound > best[0][0]:
            break
        if pipeline := stages[layout.pp, layout.vpp]:
            found = _small(full, layout, pipeline)
            key = (distance(wanted, signature(found)), layout.ranks, pipeline.layers, *degrees(layout).values(), layout.vpp)
            best = (key, found) if key < best[0] and _runs(found) else best
    return best[1]


def _best_stages(full: Full, pp: int, vpp: int) -> Stages | None:
    """The pipeline of so many stages that is nearest to the full one, with the fewest layers."""
    wanted, layout = of_stages(full), Layout(pp=pp, vpp=vpp)
    whole = chunks(full.model, full.layout, full.options.split) if full.options.split.layout else ()
    made = [(stages, _small(full, layout, stages)) for stages in candidates(full.model, pp, vpp, whole)]
    ranked = sorted(made, key=lambda found: (distance(wanted, of_stages(found[1])), found[0].layers, found[0].dense))
    return next((stages for stages, small_one in ranked if _runs(small_one)), None)


def _layout(full: Full, pp: int, vpp: int, *stage: int) -> Layout:
    tp, cp, dp, etp, ep = stage
    return Layout(tp, pp, vpp, ep, etp, cp, dp, full.layout.sequence_parallel)


@lru_cache(maxsize=64)
def _stage_degrees(most: int) -> tuple[tuple[int, ...], ...]:
    """tp, cp, dp, etp and ep of each pipeline stage with up to `most` ranks."""
    found = product(_DEGREES, repeat=5)
    return tuple(one for one in found if math.prod(one[:3]) <= most and math.prod(one[:3]) % math.prod(one[3:]) == 0)


def _named(layout: Layout) -> Layout:
    """The same layout with the shortest name: etp and dp are left out where they are what they would be."""
    for shorter in (replace(layout, dp=None), replace(layout, etp=None), replace(layout, dp=None, etp=None)):
        if degrees(shorter) == degrees(layout):
            layout = shorter
    return layout


def _small(full: Full, layout: Layout, stages: Stages) -> Full:
    model = small(full, layout, stages.layers, stages.dense)
    each = min(full.micro_batch_size or 2, 2)
    options = replace(full.options, split=stages.split, instances=min(full.options.instances, MOST_INSTANCES))
    return Full(model, _named(layout), options, sequence_length(layout), each)


def _batch(found: Full) -> int:
    return found.layout.data_parallel * micro_batches(found.layout) * (found.micro_batch_size or 1)


def _runs(found: Full) -> bool:
    """Whether Plumbline accepts it."""
    case = _case(found, _batch(found))
    return not any(rule(case) for rule in RULES)


def _training(full: Full) -> Training:
    options = full.options
    dispatcher = options.dispatcher if options.dispatcher in OPTIONS["dispatcher"] else "alltoall"
    stages = counts(full.layout.pp, full.model.num_hidden_layers, options.split)
    optimizer = "distributed" if options.distributed_optimizer else "plain"
    training = Training(optimizer=optimizer, dispatcher=dispatcher, stages=stages)
    text = options.split.layout
    return training.with_settings({f"model.{FIELD}": text}) if text else training


def _case(full: Full, batch_size: int, name: str = "stand-in", precision: str = "fp64", seed: int = DEFAULT_SEED) -> Case:
    data = (batch_size, full.micro_batch_size or 1, full.seq_length or SEQUENCE)
    return Case(name, full.model, full.layout, precision, "local", "gloo", seed, *data, training=_training(full))
