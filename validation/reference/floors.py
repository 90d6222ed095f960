"""What the model itself is off from its truth in the case's precision, measured in several runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from validation.case.case import Case
from validation.case.optimizers import ADAM, Rule
from validation.case.steps import STEPS
from validation.compare.precision import DTYPES, computing_in
from validation.reference import fp8, step_floor, sums, turning
from validation.reference import model as reference_model
from validation.reference.batch import Batch
from validation.reference.checkpoint import Checkpoint
from validation.reference.floor import VARIANTS, Floor, Variant, gradients_of
from validation.reference.fp8 import Recipe
from validation.reference.models import Models, Progress
from validation.reference.record import Isolation, Recording, Unrecorded
from validation.reference.routing import Routing
from validation.reference.sources import Precision
from validation.reference.steps import Steps


@dataclass(frozen=True)
class Truth:
    """What floors are measured from: a case's truth in `recording`, and each step's choices.

    With `in_place` it lies where it was computed.
    """

    case: Case
    checkpoint: Checkpoint
    batches: list[Batch]
    recording: Recording
    choices: Sequence[Routing]
    in_place: bool


def measured(true: Truth, floor: Floor, shown: turning.Shown, progress: Progress) -> dict[str, Any]:
    """What the model itself is off from its truth in the precision, in several runs."""
    case, checkpoint, batches, recording, in_place = true.case, true.checkpoint, true.batches, true.recording, true.in_place
    (chosen, *further), batch, later = true.choices, batches[0], batches[1:]
    dtype, device, steps_follow = DTYPES[case.precision], batch.tokens.device, case.training.steps > 0 and not case.upto
    with computing_in(case.precision):
        models = Models.build(case, checkpoint, Precision(dtype, dtype), device)
        # As large a loss as Megatron has, which sums over tokens and divides at the end; a power of two rounds nothing. In
        # fp8 it matters where small gradients vanish, so that there it is the very number.
        tokens, runs = int(batch.mask.sum()), _runs(case)
        scale = float(tokens) if fp8.recipes(case) else 2.0 ** tokens.bit_length()
        for name, variant, recipe in runs:
            progress(f"floor: {name}")
            models.forget_gradients()
            isolation = Isolation(recording.forward, recording.gradients, scale, variant.move) if case.isolated else None
            steps = Steps(models.hf, models.mtp, case, shown.kept, in_place)
            with reference_model.varied(models.hf, variant), _quantising(models, recipe):
                with steps.loads.counting(batch):
                    found = models.record(batch, progress, Recording(chosen, isolation, in_place), scale)
                if isolation is not None:
                    models.record_experts(chosen, isolation, found, early=variant.experts != "eager")
                floor.add(found.forward.items())
                floor.add(gradients_of(found, models.gradients(in_place)), scale)
                if steps_follow:
                    step_floor.rounded_steps(steps, later, further, functools.partial(models.quietly, scale=scale), scale)
            if steps_follow:
                floor.add((f"{STEPS}{key}", value) for key, value in steps.kept.items())
                step_floor.add_gradients(floor, case, shown, steps.kept)
                shown.add(steps.kept, steps.norms)
                del steps, found  # the next run has as much
                models = Models.build(case, checkpoint, Precision(dtype, dtype), device)
        if case.rounds_sums and not case.upto:
            progress("floor: gradients added up in bf16")
            _add_sums(true, floor, models, scale, shown)
    if steps_follow:
        del models
        if later and Rule.of(case.training).kind == ADAM:
            progress("floor: single elements moved")
            with computing_in("fp64"):
                models = Models.build(case, checkpoint, Precision(torch.float64, dtype), device)
                steps = Steps(models.hf, models.mtp, case, shown.kept)
                turning.raise_later(floor, steps, shown, later, further, models.quietly)
        step_floor.widen(floor, case, shown)
    return {**floor.facts(case), "floor_runs": ", ".join(name for name, _, _ in runs)}


def _add_sums(true: Truth, floor: Floor, models: Models, scale: float, shown: turning.Shown) -> None:
    """Take in a run whose gradients are added up sequence by sequence, and its steps if there are any.

    What it has before the gradients of parameters is what the other runs have.
    """
    case, batch, choice = true.case, true.batches[0], true.choices[0]
    factor = sums.factor(int(batch.mask.sum()))

    def record(batch: Batch, recording: Recording) -> Recording:
        with sums.one_by_one(len(batch.tokens)):
            found = models.quietly(batch, recording, scale)
        for _, parameter in models.named_parameters():
            if parameter.grad is not None:
                parameter.grad *= factor
        return found

    models.forget_gradients()
    steps = Steps(models.hf, models.mtp, case, shown.kept, true.in_place)
    with steps.loads.counting(batch):
        record(batch, Unrecorded(choice))
    floor.add(((f"gradients/{name}", found) for name, found in models.gradients(true.in_place).items()), scale * factor)
    if case.training.steps:
        step_floor.rounded_steps(steps, true.batches[1:], true.choices[1:], record, scale * factor)
        floor.add((f"{STEPS}{key}", value) for key, value in steps.kept.items())
        step_floor.add_gradients(floor, case, shown, steps.kept)
        shown.add(steps.kept, steps.norms)


def _runs(case: Case) -> list[tuple[str, Variant, Recipe | None]]:
    """The variants by their names; in fp8 those of attention and input under the first recipe, and one run under each other.

    What eight bits leave is far more than what variants differ by.
    """
    first, *others = fp8.recipes(case) or (None,)
    if first is None:
        return [(variant.name, variant, None) for variant in VARIANTS]
    pairs = [(variant, first) for variant in VARIANTS if variant.experts == Variant().experts]
    pairs += [(Variant(), recipe) for recipe in others if recipe is not None]
    return [(f"{variant.name}, {recipe.name}", variant, recipe) for variant, recipe in pairs]


def _quantising(models: Models, recipe: Recipe | None) -> AbstractContextManager[None]:
    """Within it the model's products are in fp8 as the recipe says, where there is one."""
    if recipe is None:
        return nullcontext()
    return fp8.computing_with(recipe, [*models.hf.model.layers, *(models.mtp.layers if models.mtp is not None else ())])
