"""A plan as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

from validation.case.plural import many
from validation.plan import weights
from validation.plan.estimate import Parts
from validation.plan.fit import GIB, Fit, Question
from validation.plan.standing import command
from validation.recipe.pipeline import summary
from validation.recipe.standin import StandIn

_COLUMNS = [field.name for field in fields(Parts)]
NOT_COUNTED = (
    "estimated: activations are those of megatron-core 0.16.1 with Transformer Engine in bf16; on one H200 within 11 %",
    "not counted: fp8, CUDA graphs, buffers of NCCL and of DeepEP, fragments of the allocator; --reserve keeps room for them",
)


@dataclass(frozen=True)
class Shown:
    """A layout that is shown, what it is, and what stands for it, or the sentence why nothing does."""

    fit: Fit
    title: str
    small: StandIn | None
    why: str = ""


@dataclass(frozen=True)
class Answer:
    """What a plan says. `own` is a layout that was asked for, or a recipe's; `least` takes least of all."""

    question: Question
    name: str
    fits: tuple[Fit, ...]
    tried: int
    least: Fit | None
    shown: tuple[Shown, ...]

    @property
    def fit(self) -> bool:
        """Whether what was asked for fits."""
        return bool(self.fits)


def text(answer: Answer) -> str:
    """The answer for a reader."""
    rows = [*_head(answer), "", *_table(answer.shown), ""] if answer.shown else [*_head(answer), ""]
    for one in answer.shown:
        rows += [*_one(one), ""]
    said = (*answer.question.policy.doubts, *NOT_COUNTED)
    return "\n".join([*rows, *said]) + "\n"


def _head(answer: Answer) -> Iterator[str]:
    question, model = answer.question, answer.question.model
    whole, active = weights.total(model), weights.active(model)
    mtp = weights.total(model, mtp=True) - whole
    beside = f"; MTP layers: {model.num_nextn_predict_layers}, {_many(mtp)} beside them" if mtp else ""
    yield f"{answer.name}: {_many(whole)} parameters, {_many(active)} of them for a token{beside}"
    yield (
        f"{many(question.gpus, 'GPU')}, {question.per_node} a node, {question.room:g} GiB "
        f"of each to fill; sequences of {many(question.seq_length, 'token')}, {question.micro_batch_size} in a micro-batch"
    )
    if answer.tried == 1 and answer.shown:
        yield f"the layout {'fits' if answer.fits else 'does not fit'}"
    elif answer.fits:
        yield (
            f"{len(answer.fits)} of {many(answer.tried, 'layout')} {'fits' if len(answer.fits) == 1 else 'fit'}; "
            f"these have the shortest pipeline for tp, cp and recompute"
        )
    elif answer.least is None:
        yield "no layout divides the model and the GPUs; another number of GPUs would, or another --global-batch-size"
    else:
        some = f"none of {many(answer.tried, 'layout')} fits" if answer.tried > 1 else "the only layout does not fit"
        yield f"{some}: {answer.least.layout.name} takes least, {answer.least.gib:.1f} GiB; {_remedy(question, answer.least)}"


def _remedy(question: Question, least: Fit) -> str:
    """What would make a layout fit: what each weight takes at least once sets how many GPUs are too few."""
    held, policy = weights.total(question.model, mtp=True), question.policy
    needed = held * (policy.weights + policy.gradients + policy.state) / GIB
    fewest = math.ceil(needed / question.room)
    if fewest > question.gpus:
        return (
            f"weights, gradients and optimizer alone are {needed:.0f} GiB, which needs {fewest} GPUs or more of "
            f"{question.room:g} GiB each"
        )
    parts = least.stages[least.worst]
    shorter = parts.weights + parts.gradients + parts.optimizer < question.room * GIB
    return "more GPUs, more memory or a shorter --seq-length would do" if shorter else "more GPUs or more memory would do"


def _many(count: int) -> str:
    """A number of parameters in billions, or in millions if it is small."""
    return f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.2f} M"


def _table(shown: Sequence[Shown]) -> Iterator[str]:
    width = max(len(one.fit.layout.name) for one in shown)
    yield f"GiB on the fullest GPU{'':{max(width - 22, 0)}}  recompute  stage  " + "  ".join(
        f"{name:>11}" for name in (*_COLUMNS, "total")
    )
    for one in shown:
        parts = one.fit.stages[one.fit.worst]
        sizes = "  ".join(f"{size / GIB:11.1f}" for size in (*(getattr(parts, name) for name in _COLUMNS), parts.total))
        yield f"{one.fit.layout.name:{max(width, 22)}}  {one.fit.recompute.granularity:9}  {one.fit.worst:5}  {sizes}"


def _one(shown: Shown) -> Iterator[str]:
    fit = shown.fit
    yield f"{fit.layout.name}{shown.title}"
    if fit.layout.pp > 1:
        how = compact(fit.split.layout) if fit.split.layout else f"{summary(fit.chunks)} layers"
        yield f"  pipeline:   {how}"
    yield f"  recompute:  {fit.recompute.said}"
    if fit.mtp is not None:
        yield f"  MTP:        on stage {fit.mtp}, which takes {fit.stages[fit.mtp].total / GIB:.1f} GiB"
    if shown.small is None:
        yield f"  stand-in:   none: {shown.why}"
        return
    _, small, *rest = shown.small.describe().splitlines()
    yield f"  {small.replace('stand-in:  ', 'stand-in:   ')}"
    yield from (f"  {line.replace(':', ': ', 1)}" for line in rest)
    yield f"  run:        {command(shown.small)}"


def compact(text: str) -> str:
    """A pipeline layout string with repeated parts written once: `Et*7|(t*8|)*6t*6mL`."""
    *rows, last = map(_counted, text.split("|"))
    runs = [(row, len(list(run))) for row, run in groupby(rows)]
    return "".join(f"({row}|)*{count}" if count > 1 else f"{row}|" for row, count in runs) + last


def _counted(row: str) -> str:
    runs = [(letter, len(list(run))) for letter, run in groupby(row)]
    return "".join(f"{letter}*{count}" if count > 1 else letter for letter, count in runs)


def document(answer: Answer) -> Mapping[str, Any]:
    """The answer as JSON has it: every layout that fits, and more of those that are shown. Sizes are in bytes."""
    model = answer.question.model
    return {
        "model": {
            "name": answer.name,
            "parameters": weights.total(model),
            "active": weights.active(model),
            "mtp": weights.total(model, mtp=True) - weights.total(model),
        },
        "gpus": answer.question.gpus,
        "room": round(answer.question.room * GIB),
        "tried": answer.tried,
        "layouts": [_layout(fit) for fit in answer.fits],
        "shown": [_shown(one) for one in answer.shown],
        "not_counted": [*answer.question.policy.doubts, *NOT_COUNTED],
    }


def _layout(fit: Fit) -> dict[str, Any]:
    """A layout with what its fullest stage takes."""
    return {
        "layout": fit.layout.name,
        "pipeline_layout": fit.split.layout or "",
        "recompute": fit.recompute.said,
        "stage": fit.worst,
        "memory": _sizes(fit.stages[fit.worst]),
    }


def _shown(one: Shown) -> dict[str, Any]:
    """A layout with all of its stages, and what stands for it."""
    found = {**_layout(one.fit), "stages": [_sizes(parts) for parts in one.fit.stages]}
    found |= {} if one.fit.mtp is None else {"mtp_stage": one.fit.mtp}
    if one.small is None:
        return found | {"no_stand_in": one.why}
    small = one.small
    lost = {"lost": list(small.lost), "not_shown": list(small.limits)}
    return found | {"stand_in": {"layout": small.layout.name, "ranks": small.layout.ranks, **lost, "command": command(small)}}


def _sizes(parts: Parts) -> dict[str, int]:
    return {name: round(getattr(parts, name)) for name in (*_COLUMNS, "total")}
