"""What a rank does with the model behind the first backward pass: the optimizer's steps."""

from __future__ import annotations

from dataclasses import dataclass

from megatron.core.distributed import DistributedDataParallel

from validation.candidate import load, platform
from validation.candidate.compare import compare_rates, compare_step, compare_values
from validation.candidate.optimizer import Optimizer
from validation.candidate.probes import ProbedChunk
from validation.candidate.recorder import Recorder
from validation.candidate.step import run_step
from validation.case.case import Case
from validation.compare.precision import as_stored
from validation.reference.store import Reference
from validation.run.plugin import Plugin
from validation.run.report import RankReport


@dataclass(frozen=True)
class Rank:
    """What a rank has of its model when the first backward pass has ended."""

    case: Case
    wrapped: list[DistributedDataParallel]
    probed: list[ProbedChunk]
    held: load.Held
    stored: Reference
    recorder: Recorder
    report: RankReport
    plugin: Plugin


def live(rank: Rank) -> None:
    """Take the optimizer's steps: the first with the gradients that have been compared, each further one with its own batch.

    If megatron-core gathers parameters while it computes, what a step has made of them is there behind the next forward pass:
    that of the next step, and behind the last step one more.
    """
    case = rank.case
    later = bool(case.training.effective("ddp").get("overlap_param_gather"))
    if case.precision == "fp64":
        platform.torchs_optimizers()
    optimizer = Optimizer(case, rank.wrapped)
    for step in range(1, case.training.steps + 1):
        rank.report.progress(f"step {step}")
        if step > 1:
            _compute(rank, step)
            if later:
                _compare_values(rank, step - 1, trained=True)
        _step(rank, optimizer, step)
        if not later:
            _compare_values(rank, step, trained=True)
    if later:
        _begin(rank, 0)
        run_step(case, rank.wrapped, rank.stored.batch, alone=True)
        _compare_values(rank, case.training.steps, trained=True)


def _compute(rank: Rank, step: int) -> None:
    """The gradients of a later step, counted from 1."""
    _begin(rank, step)
    run_step(rank.case, rank.wrapped, rank.stored.batch, step - 1)


def _begin(rank: Rank, step: int) -> None:
    for chunk in rank.probed:
        chunk.begin(step)


def _step(rank: Rank, optimizer: Optimizer, step: int) -> None:
    """The optimizer's step, and all that it leaves but for the parameters."""
    place = (rank.held, rank.stored, rank.recorder)
    with as_stored():
        compare_rates(rank.case, step, optimizer, *place)
    norm = optimizer.step()
    rank.plugin.stepped(rank.case, rank.wrapped, step)
    with as_stored():
        compare_step(step, norm, optimizer, *place)
    _compare_values(rank, step, trained=False)


def _compare_values(rank: Rank, step: int, *, trained: bool) -> None:
    with as_stored():
        compare_values(step, rank.held, rank.stored, rank.recorder, trained=trained)
