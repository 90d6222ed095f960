"""The stand-in of a layout and the command that runs it."""

from __future__ import annotations

import shlex
from dataclasses import fields

from validation.case import tree
from validation.case.model import ASKED_FOR, Model
from validation.case.preset import TINY
from validation.case.settings import written
from validation.recipe.standin import StandIn

_USUAL_RANKS = 8
"""More must be allowed: `run --max-ranks`."""


def command(found: StandIn) -> str:
    """A command for a shell that runs the stand-in, with a model made of preset `tiny`."""
    training = found.training
    layout = "+".join((found.layout.name, *(word for word in training.words if "=" not in word)))
    words = ["--preset", TINY.name, "--layouts", layout]
    for name, value in _changed(found.model):
        words += ["--set", f"{name}={value}"]
    for name, setting in training.settings:
        words += ["--config", f"{name}={written(setting)}"]
    words += ["--batch-size", str(found.batch_size), "--micro-batch-size", str(found.micro_batch_size)]
    words += ["--seq-length", str(found.seq_length)]
    words += ["--max-ranks", str(found.layout.ranks)] if found.layout.ranks > _USUAL_RANKS else []
    return f"{tree.VALIDATION} run {shlex.join(words)}"


def _changed(model: Model) -> list[tuple[str, str]]:
    """The numbers that `tiny` has otherwise, as --set takes them. ASKED_FOR is one of them: +mtp then asks for as many."""
    pairs = [(field.name, getattr(model, field.name), getattr(TINY.model, field.name)) for field in fields(Model)]
    found = [(name, _text(value)) for name, value, plain in pairs if value != plain]
    return sorted(found, key=lambda pair: pair[0] == ASKED_FOR)


def _text(value: object) -> str:
    return {True: "true", False: "false", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)
