"""The command that runs one check of one case again. No torch."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from functools import cache

from validation.case import life, tree
from validation.case.case import Case
from validation.case.fields import entry
from validation.case.layout import Layout
from validation.case.model import ASKED_FOR, PADDED
from validation.case.preset import PRESETS, TINY, preset
from validation.case.training import mtp_words
from validation.run.options import Settings, parsed

_OF_CASE = {
    "precision": "--precision",
    "implementation": "--implementation",
    "transport": "--transport",
    "seed": "--seed",
    "batch_size": "--batch-size",
    "micro_batch_size": "--micro-batch-size",
    "seq_length": "--seq-length",
    "candidate_checkpoint": "--candidate-checkpoint",
    "data": "--data",
    "tokenizer": "--tokenizer",
}
"""Fields of a case with an option each, which is written where the case has not what it would have without."""


def alone(case: Case) -> Case:
    """The case on one rank, in one process: the same model, data and steps, and the model's settings."""
    kept = tuple((name, value) for name, value in case.training.settings if entry(name).of_one_rank)
    lived = life.in_one_layout(case.training.life)
    training = replace(case.training, stages=(), optimizer="plain", settings=kept, life=lived, vocab_multiple=0)
    return replace(case, layout=Layout(), training=training)


def command(case: Case, check: str, wanted: Settings, twice: bool = False) -> str:
    """`python -m validation run ... --only ...`, for a shell: the check that is called `check`, under `case`.

    Without a check, all of the case. `wanted` are the settings that the check ran with, for what is no part of the case.
    `twice` for what shows only if the case is run once more.
    """
    words = [*tree.VALIDATION.split(), "run", *_words(case), *_machine(case, wanted), *(["--self-test"] if twice else [])]
    return shlex.join([*words, "--only", check] if check else words)


@cache
def _words(case: Case) -> tuple[str, ...]:
    words = [*_model(case), "--layouts", case.arrangement, *(["--isolated"] if case.isolated else [])]
    usual = parsed(words).cases[0]
    for name, option in _OF_CASE.items():
        if getattr(case, name) != getattr(usual, name):
            words += [option, str(getattr(case, name))]
    # How many steps are usual follows from the precision.
    if case.training.steps != parsed(words).cases[0].training.steps:
        words += ["--steps", str(case.training.steps)]
    return tuple(words)


def _model(case: Case) -> list[str]:
    """The preset with the numbers that were changed, or the checkpoint's folder."""
    if case.hf_model_path is not None:
        layers = ["--layers", ",".join(map(str, case.layers))] if case.layers else []
        rows = case.model.padded_vocab_size
        padding = ["--set", f"{PADDED}={rows}"] if rows and not case.training.vocab_multiple else []
        return ["--hf-model-path", case.hf_model_path, *layers, *padding]
    name = case.preset if case.preset in PRESETS else TINY.name
    usual = preset(name).model
    # The layers of multi-token prediction stand in the layout's words, and so does padding to a multiple.
    carried = [ASKED_FOR] if mtp_words(case.model.num_nextn_predict_layers) else []
    carried += [PADDED] if case.training.vocab_multiple else []
    names = [field.name for field in fields(usual) if field.name not in carried]
    changed = [name for name in names if getattr(case.model, name) != getattr(usual, name)]
    return ["--preset", name, *(word for name in changed for word in ("--set", f"{name}={getattr(case.model, name)}"))]


def _machine(case: Case, wanted: Settings) -> list[str]:
    usual = _usual()
    words = ["--megatron-path", str(wanted.megatron_path)] if wanted.megatron_path else []
    words += ["--plugin", wanted.plugin] if wanted.plugin else []
    words += ["--timeout", f"{wanted.timeout:g}"] if wanted.timeout != usual.timeout else []
    return words + (["--max-ranks", str(case.layout.ranks)] if case.layout.ranks > usual.max_ranks else [])


@cache
def _usual() -> Settings:
    return parsed(["--layouts", "single"])
