"""The settings of --config and of the words that follow a layout, typed by the megatron-core that ranks run. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from validation.case.annotation import Value
from validation.case.errors import UsageError
from validation.case.settings import parsed, written
from validation.case.training import Training


def given(texts: Sequence[str]) -> dict[str, Value]:
    """The settings of --config by name. Raises UsageError, also for one that is given twice with different values."""
    found: dict[str, Value] = {}
    for name, value in map(parsed, texts):
        if name in found and found[name] != value:
            raise UsageError(f"--config gives {name} as {written(found[name])} and as {written(value)}; give it once")
        found[name] = value
    return found


def typed(training: Training) -> Training:
    """The same with each setting's value as its field has it: 1 is 1.0 if the field is a float.

    Raises UsageError for a field that this megatron-core does not have, and for a value that its type does not allow.
    """
    return replace(training, settings=()).with_settings(typed_values(dict(training.settings)))


def typed_values(values: Mapping[str, Value]) -> dict[str, Value]:
    """The same of settings by name. Raises UsageError as `typed` does."""
    if not values:
        return {}
    from validation.case import declared

    fields = declared.here()
    return {name: declared.checked(declared.find(fields, name), value, written(value)) for name, value in values.items()}
