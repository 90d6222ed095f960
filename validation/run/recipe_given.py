"""The cases of `--recipe`: the stand-in of what a file trains, with its settings that can be compared here. No torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from validation.case import preflight
from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.schedule_rules import rates_can_be
from validation.case.training import OPTIONS, Training, option
from validation.recipe import trial
from validation.recipe.trial import Place, Trial
from validation.run import nearest, settings_given
from validation.run.command_line import DEGREES

_STEPS = 2
_OF_A_RECIPE = {
    "preset": "--preset",
    "layers": "--layers",
    "numbers": "--set",
    "layouts": "--layouts",
    **{degree: f"--{degree}" for degree in DEGREES},
    **{name: option(name) for name in OPTIONS if name != "inference"},
    "candidate_checkpoint": "--candidate-checkpoint",
}
"""What a recipe says itself, and the option that would say it again."""
_ELSEWHERE = {"data": "--data", "tokenizer": "--tokenizer", "stream": "--stream"}
"""What the stand-in of a recipe does not have."""


def given(options: Any, transport: str) -> tuple[Trial, tuple[Case, ...]]:
    """What is tried of the recipe, and the cases. Raises UsageError.

    On a CPU the first is in fp64. A second one, in the recipe's own precision, has the settings that fp64 hides.
    """
    twice = [option for name, option in _OF_A_RECIPE.items() if getattr(options, name)]
    if twice:
        raise UsageError(
            f"--recipe says model, layout and step by itself; leave out {', '.join(twice)}, or change a setting with --config"
        )
    if beside := [option for name, option in _ELSEWHERE.items() if getattr(options, name)]:
        raise UsageError(f"--recipe has random tokens and whole models; leave out {', '.join(beside)}, or compare a layout")
    if options.inference not in (None, Training().inference):
        raise UsageError("--recipe compares a training step and --inference prefill and decode; leave one of them out")
    checkout = Path(options.megatron_path) if options.megatron_path else None
    folder = Path(options.hf_model_path) if options.hf_model_path else None
    given_here = settings_given.given(options.config)
    place = Place(
        options.implementation,
        transport,
        options.precision,
        options.steps or 0,
        options.isolated,
        options.batch_size,
        options.micro_batch_size,
        options.seq_length,
        settings_given.typed_values(given_here),
    )
    tried = trial.of_file(Path(options.recipe), checkout, options.world_size, folder, place)
    tried = tried.with_layers_of(options.implementation)

    def make(trial_: Trial) -> Case:
        case = replace(place.case(trial_.small, trial_.recipe), preset=trial_.preset.name, seed=options.seed)
        return _with_steps(replace(case, training=settings_given.typed(trial_.training)), options.steps)

    tried = nearest.beside_bugs(tried.configured(given_here), make, given_here)
    first = make(tried)
    hidden = tried.lanes if options.precision is None and first.precision == "fp64" else ()
    return tried, (first, *([trial.in_lane(first, tried.recipe)] if hidden else []))


def _with_steps(case: Case, asked: int | None) -> Case:
    """With the steps that are asked for; else with two if the case can take them. Raises UsageError for impossible rates."""
    if wrong := rates_can_be(case):
        raise UsageError(wrong)
    if asked is not None:
        return replace(case, training=replace(case.training, steps=asked))
    stepping = replace(case, training=replace(case.training, steps=_STEPS))
    able = case.precision == "fp64" and not case.isolated and not any(rule(stepping) for rule in preflight.RULES)
    return stepping if able else case
