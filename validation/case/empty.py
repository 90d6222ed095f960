"""An option whose value is empty: `--megatron-path "$FOLDER"` where FOLDER is not set. No default may stand in for it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from validation.case.errors import UsageError


def refuse_empty(options: Any, names: Iterable[str]) -> None:
    """Raises UsageError where one of these was given as an empty string, alone or among others; None is what is left out."""
    for name in names:
        value = getattr(options, name)
        if any(isinstance(one, str) and not one.strip() for one in (value if isinstance(value, list) else [value])):
            raise UsageError(f"--{name.replace('_', '-')} is empty: give it a value, or leave it out")


def given(text: str) -> str:
    """What an argument says. Raises argparse's error for an empty one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: give it a value")
    return text


def given_path(text: str) -> Path:
    """The path that an option or an argument names. Raises argparse's error for an empty one, which Path takes for `.`."""
    return Path(given(text))
