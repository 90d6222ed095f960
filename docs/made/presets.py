"""The presets, number by number."""

from __future__ import annotations

import math
from dataclasses import fields

from docs.made.tables import code, table
from validation.case.model import MEGATRON_WORDS, Model
from validation.case.parameters import parameters
from validation.case.preset import PRESETS, Preset


def numbers() -> str:
    """A column for each preset: its data, and every number of its model."""
    megatron = {theirs: ours for ours, theirs in MEGATRON_WORDS.items()}
    rows = [
        ("parameters", "", *map(_parameters, PRESETS.values())),
        ("sequences of a step", "", *(str(one.batch_size) for one in PRESETS.values())),
        ("sequences of a micro-batch", "", *(str(one.micro_batch_size) for one in PRESETS.values())),
        ("tokens of a sequence", "", *(str(one.seq_length) for one in PRESETS.values())),
        ("compared layer by layer", "", *("yes" if one.stream else "no" for one in PRESETS.values())),
    ]
    for number in fields(Model):
        values = (_shown(getattr(one.model, number.name)) for one in PRESETS.values())
        rows.append((code(number.name), code(megatron.get(number.name, "")), *values))
    return table(("number", "Megatron's name", *map(code, PRESETS)), rows)


def _parameters(preset: Preset) -> str:
    count = sum(math.prod(parameter.shape) for parameter in parameters(preset.model).values())
    return f"{count / 1e9:.1f} billion" if count > 1e9 else f"{count / 1e6:.2g} million"


def _shown(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
