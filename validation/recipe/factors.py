"""The switches and degrees whose pairs are tried: factors.yaml, read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from validation.case.settings import split
from validation.recipe.pairs import Factor, Value

TABLE = Path(__file__).with_name("factors.yaml")
_WORDS = "words"


def factors() -> tuple[Factor, ...]:
    """All factors, each with its default first."""
    return tuple(Factor(name, (Value(), *map(_value, values))) for name, values in _read()["factors"].items())


def left_out() -> dict[str, str]:
    """Settings by their full names that are no factor, with the reason."""
    return dict(_read()["left out"])


def _read() -> dict[str, Any]:
    return dict(yaml.safe_load(TABLE.read_text(encoding="utf-8")))


def _value(written: str | dict[str, Any]) -> Value:
    """`distributed+ddp.bucket_size=1000`, or degrees with words."""
    if isinstance(written, str):
        return Value(words=_words(written))
    degrees = tuple((name, degree) for name, degree in written.items() if name != _WORDS)
    return Value(degrees, tuple(word for text in written.get(_WORDS, ()) for word in _words(text)))


def _words(text: str) -> tuple[str, ...]:
    """Words that are joined with +, as behind a layout."""
    return tuple(split(text.replace("+", ",")))
