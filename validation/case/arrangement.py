"""A layout with the options of its step, as one word: `tp2`, `pp2+1-3`, `ep2+distributed+full`."""

from __future__ import annotations

import functools

from validation.case.layout import Layout
from validation.case.training import Training


def parse(text: str, shared: Training) -> tuple[Layout, Training]:
    """The layout, and `shared` with what the words after it change. Raises UsageError."""
    layout, *words = text.split("+")
    return Layout.parse(layout), functools.reduce(Training.with_word, words, shared)
