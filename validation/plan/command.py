"""`plan`: which layouts fit on so many GPUs, and what stands for each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from validation.case.errors import ExitCode, UsageError
from validation.case.layout import Layout
from validation.case.plural import many
from validation.plan import fit, layouts, show
from validation.plan.fit import Fit, Question
from validation.plan.question import Asked, asked, given_layout
from validation.plan.show import Answer, Shown
from validation.recipe.pipeline import Split
from validation.recipe.standin import StandIn, check, stand_in


def run(options: argparse.Namespace) -> int:
    """Print the plan. Returns an exit code, 1 if nothing fits. Raises UsageError."""
    found = asked(options)
    answer = _one(found, given_layout(options.layout, options.gpus)) if options.layout else _all(found, options.show)
    options.document |= show.document(answer)
    sys.stdout.write(show.text(answer))
    return int(ExitCode.PASS if answer.fit else ExitCode.FAIL)


def _one(found: Asked, layout: Layout) -> Answer:
    """The answer about one layout. Raises UsageError."""
    own = found.own
    divided = own.options.split if own is not None and own.layout.pp == layout.pp and own.layout.vpp == layout.vpp else None
    one = _of_layout(found.question, layout, divided)
    return Answer(found.question, found.name, _fitting([one], found.question), 1, one, (_shown(one, found.question),))


def _of_layout(question: Question, layout: Layout, divided: Split | None = None) -> Fit:
    chosen = divided or layouts.split(question.model, layout)
    if chosen is None:
        raise UsageError(
            f"{layout.name} leaves a stage without a layer: the model has {question.model.num_hidden_layers}; a smaller pp or "
            "vpp works"
        )
    check(question.full(layout, chosen))
    one = fit.of_layout(question, layout, chosen)
    if one is None:
        wanted = question.micro_batch_size * layout.data_parallel * (layout.pp if layout.vpp > 1 else 1)
        raise UsageError(
            f"{layout.name} does not divide {many(question.global_batch or 0, 'sequence')} of a step; a "
            f"--global-batch-size that is a "
            f"multiple of {wanted} works"
        )
    return one


def _all(found: Asked, most: int) -> Answer:
    question, shown = found.question, list[Shown]()
    if found.own is not None:
        try:
            shown = [_shown(_of_layout(question, found.own.layout, found.own.options.split), question, _RECIPES)]
        except UsageError as error:  # other layouts may do
            question = replace(question, policy=question.policy.doubting(f"the recipe's own layout is left out: {error}"))
    every = list(fit.all_layouts(question))
    fitting = _fitting(every, question)
    shown += [_shown(one, question) for one in list(_first_of_each(fitting))[:most]]
    return Answer(question, found.name, fitting, len(every), min(every, key=lambda one: one.gib, default=None), tuple(shown))


_RECIPES = ", the recipe's own"


def _fitting(every: Sequence[Fit], question: Question) -> tuple[Fit, ...]:
    return tuple(sorted((one for one in every if one.gib <= question.room), key=lambda one: one.key))


def _first_of_each(fitting: Sequence[Fit]) -> Iterator[Fit]:
    """Of the layouts with the same tp, cp and recomputation the first: the shortest pipeline."""
    met = set[tuple[int, int, int]]()
    for one in fitting:
        kind = (one.layout.tp, one.layout.cp, one.level)
        if kind not in met:
            met.add(kind)
            yield one


def _shown(one: Fit, question: Question, title: str = "") -> Shown:
    fits = "" if one.gib <= question.room else f": does not fit, {one.gib:.1f} GiB of {question.room:g}"
    small, why = _small(one, question)
    return Shown(one, f"{title}{fits}", small, why)


def _small(one: Fit, question: Question) -> tuple[StandIn | None, str]:
    try:
        return stand_in(question.full(one.layout, one.split)), ""
    except UsageError as error:
        return None, str(error)
