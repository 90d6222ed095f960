"""An option whose value is empty: `--megatron-path "$FOLDER"` where FOLDER is not set. No default may stand in for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from validation.case.errors import UsageError


def refuse_empty(options: Any, names: Iterable[str]) -> None:
    """Raises UsageError where one of these was given as an empty string, alone or among others; None is what is left out."""
    for name in names:
        value = getattr(options, name)
        if any(isinstance(one, str) and not one.strip() for one in (value if isinstance(value, list) else [value])):
            raise UsageError(f"--{name.replace('_', '-')} is empty: give it a value, or leave it out")
