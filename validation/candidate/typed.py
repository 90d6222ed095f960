"""From settings to what megatron-core's configuration classes take: words become enums and dtypes, lists stay lists."""

from __future__ import annotations

import dataclasses
import enum
import functools
import typing
from collections.abc import Mapping
from typing import Any

import torch


def typed(configuration: type, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the dataclass `configuration` has them. A value that is no text or tuple stays what it is.

    A text stays one, too, unless the field is an enum or a dtype and not text as well.
    """
    declared = {field.name: field for field in dataclasses.fields(configuration)}
    hints = _hints(configuration)
    return {name: _typed(value, hints.get(name), declared.get(name)) for name, value in wanted.items()}


@functools.cache
def _hints(configuration: type) -> dict[str, Any]:
    """The types of the fields. Of a release whose annotations cannot be read here, none."""
    try:
        return typing.get_type_hints(configuration)
    except (NameError, TypeError):
        return {}


def _typed(value: Any, hint: Any, field: dataclasses.Field[Any] | None) -> Any:
    if isinstance(value, tuple):
        return [_typed(one, None, None) for one in value]
    kinds = typing.get_args(hint) or (hint,)
    if not isinstance(value, str) or str in kinds:
        return value
    if torch.dtype in kinds:
        return getattr(torch, value)
    default = field.default if field is not None else None
    enums = [kind for kind in (*kinds, type(default)) if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    return next((kind[value] for kind in enums if value in kind.__members__), value)
