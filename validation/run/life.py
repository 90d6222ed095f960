"""What a rank does with the model behind the first backward pass: the optimizer's steps, and what happens between them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel

from validation.candidate import build, checkpointing, graphs, latent_norms, load, overflow, platform
from validation.candidate.compare import (
    compare_loss_scale,
    compare_rates,
    compare_step,
    compare_values,
    compare_written,
    first_moments,
)
from validation.candidate.optimizer import Optimizer
from validation.candidate.own_steps import OwnSteps
from validation.candidate.probes import ProbedChunk
from validation.candidate.recorder import Recorder
from validation.candidate.step import run_step
from validation.case import life
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.life import EVALUATE, LOAD, OVERFLOW, RESUME, SAVE, STEP, Event
from validation.case.steps import FACTOR, LOSS_SCALE, NORM, STEPS, WEIGHED
from validation.compare.precision import as_stored
from validation.reference.store import Reference
from validation.run.plugin import Plugin
from validation.run.report import RankReport

OWN_CHOICES = 0
"""Instead of a step's number: routers go on with their own choices."""


@dataclass(frozen=True)
class Rank:
    """What a rank has of its model when the first backward pass has ended. `probe` watches a chunk that is made later."""

    case: Case
    chunks: list[GPTModel]
    wrapped: list[DistributedDataParallel]
    probed: list[ProbedChunk]
    held: load.Held
    stored: Reference
    recorder: Recorder
    report: RankReport
    plugin: Plugin
    probe: Callable[[GPTModel, Case], ProbedChunk]


def live(rank: Rank) -> None:
    """Take the optimizer's steps: the first with the gradients that have been compared, each further one with its own batch.

    If megatron-core gathers parameters while it computes, what a step has made of them is there behind the next forward pass:
    that of the next step, and behind the last step one more.
    """
    case = rank.case
    later = bool(case.training.effective("ddp").get("overlap_param_gather"))
    if case.precision == "fp64" or case.on_cpu:
        platform.torchs_optimizers()
    recorded: graphs.Recorded | None = None
    own = OwnSteps(case)
    events = life.parse(case.training.life) or (Event(STEP),) * case.training.steps
    optimizer = _loaded(rank) if events[0].kind == LOAD else Optimizer(case, rank.wrapped)
    step = 0
    for number, event in enumerate(events):
        if event.kind == EVALUATE:
            _evaluate(rank)
        elif event.kind in (SAVE, RESUME):
            rank, optimizer = _saved(rank, optimizer, event, rank.report.shared(f"checkpoint-{number}"))
            own.cut_as(rank.case.layout)
        elif event.kind == STEP:
            step += 1
            _step(rank, optimizer, own, step, _overflows(events, number), later=later)
            if step == 1 and graphs.wanted(case):
                rank.report.progress("CUDA graphs")
                recorded = graphs.Recorded(case, rank.wrapped, rank.probed, optimizer)
    if later:
        _begin(rank, OWN_CHOICES)
        run_step(case, rank.wrapped, rank.stored.batch, alone=True)
        _compare_written(rank, optimizer, case.training.steps)
    with as_stored():
        own.close()
    if recorded is not None:
        recorded.let_go()


def _overflows(events: Sequence[Event], number: int) -> int:
    """How many times the gradients of the step at that place hold an infinity first."""
    return len(list(itertools.takewhile(lambda event: event.kind == OVERFLOW, reversed(events[:number]))))


def _step(rank: Rank, optimizer: Optimizer, own: OwnSteps, step: int, overflows: int, *, later: bool) -> None:
    """The gradients of a step, counted from 1, if they are not there yet, the optimizer's step, and all that it leaves."""
    rank.report.progress(f"step {step}")
    if step > 1:
        _begin(rank, step)
        run_step(rank.case, rank.wrapped, rank.stored.batch, step - 1, zeroed=lambda: _are_zero(rank, step))
        if later:
            _compare_written(rank, optimizer, step - 1)
        _weigh(rank, step)
    place = (rank.held, rank.stored, rank.recorder)
    with as_stored():
        own.begin(step, optimizer, rank.held, rank.recorder)
    for _ in range(overflows):
        if not overflow.is_skipped(rank.wrapped, rank.held, optimizer):
            rank.recorder.problem(f"{STEPS}{step}/{LOSS_SCALE}", "a step was taken though its gradients held an infinity")
    with as_stored():
        compare_loss_scale(rank.case, step, optimizer, rank.recorder)
        compare_rates(rank.case, step, optimizer, *place)
        before = first_moments(rank.case, step, optimizer, rank.held)
    norm = optimizer.step(own.end)
    rank.plugin.stepped(rank.case, rank.wrapped, step)
    with as_stored():
        compare_step(rank.case, step, norm, optimizer, before, *place)
    _compare_values(rank, step, trained=False)
    if not later:
        _compare_written(rank, optimizer, step)


def _are_zero(rank: Rank, step: int) -> None:
    """Say so if something of another step's gradients is left for the step that begins."""
    buffers = (buffer for chunk in rank.wrapped for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers))
    if any(bool(buffer.grad_data.any()) for buffer in buffers):
        rank.recorder.problem(
            f"{STEPS}{step}/{NORM}", f"the gradients of step {step - 1} are still there when step {step} begins"
        )


def _weigh(rank: Rank, step: int) -> None:
    """Multiply the gradients with what the reference has multiplied those of the step with (validation.reference.steps).

    It is kept for a run that is compared with this one.
    """
    if step != WEIGHED:
        return
    key = f"{step}/{FACTOR}"
    with as_stored():
        factor = rank.recorder.file(rank.stored.steps).read(key)
        rank.recorder.compare(STEPS + key, factor, (), rank.stored.steps, key=key)
    for chunk in rank.wrapped:
        chunk.scale_gradients(float(factor))


def _begin(rank: Rank, step: int) -> None:
    for chunk in rank.probed:
        chunk.begin(step)


def _compare_values(rank: Rank, step: int, *, trained: bool) -> None:
    with as_stored():
        compare_values(step, rank.held, rank.stored, rank.recorder, trained=trained)


def _compare_written(rank: Rank, optimizer: Optimizer, step: int) -> None:
    """What a step has made of the weights, when all of them are there."""
    if rank.case.has_masters:
        with as_stored():
            compare_written(step, optimizer, rank.held, rank.recorder)
    _compare_values(rank, step, trained=True)


def _evaluate(rank: Rank) -> None:
    """A forward pass as between steps of training, with a batch that no step has."""
    rank.report.progress("evaluation")
    _begin(rank, OWN_CHOICES)
    for chunk in rank.wrapped:
        chunk.eval()
    run_step(rank.case, rank.wrapped, rank.stored.batch, rank.case.training.steps, alone=True)
    for chunk in rank.wrapped:
        chunk.train()


def _saved(rank: Rank, optimizer: Optimizer, event: Event, folder: Path) -> tuple[Rank, Optimizer]:
    """The same behind a checkpoint; of a run that is resumed another model and optimizer."""
    rank.report.progress(event.kind)
    checkpointing.save(rank.chunks, optimizer, folder)
    if event.kind == SAVE:
        return rank, optimizer
    layout = Layout.parse(event.layout) if event.layout else rank.case.layout
    made = _made_anew(rank, replace(rank.case, layout=layout))
    fresh = Optimizer(made.case, made.wrapped)
    checkpointing.load(made.chunks, fresh, folder)
    rank.plugin.loaded(made.case, made.chunks)
    return made, fresh


def _made_anew(rank: Rank, case: Case) -> Rank:
    """A model of the case's layout, in groups of its own, whose weights are no numbers yet."""
    if case.layout != rank.case.layout:
        parallel_state.destroy_model_parallel()
        build.start_groups(case)
    chunks = build.build(case, rank.plugin.configure)
    latent_norms.give(case, chunks, None)
    rank.plugin.built(case, chunks)
    held = load.held_by(chunks, case.model, rank.recorder)
    load.fill_with_nan(chunks)
    probed = [rank.probe(chunk, case) for chunk in chunks]
    wrapped = build.wrap(chunks, case)
    rank.plugin.wrapped(case, wrapped)
    for chunk in wrapped:
        chunk.train()
    return replace(rank, case=case, chunks=chunks, wrapped=wrapped, probed=probed, held=held)


def _loaded(rank: Rank) -> Optimizer:
    """An optimizer that is made of other weights, behind which the weights alone are loaded."""
    rank.report.progress("weights behind the optimizer")
    weights = [(tensor, tensor.detach().clone()) for tensor, _ in rank.held if tensor.requires_grad]
    with torch.no_grad():
        for tensor, _ in weights:
            tensor.fill_(1.0)
    optimizer = Optimizer(rank.case, rank.wrapped)
    with torch.no_grad():
        for tensor, value in weights:
            tensor.copy_(value)
    checkpointing.load_weights_alone(optimizer)
    return optimizer
