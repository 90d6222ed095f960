"""A layout with the options of its step, as one word: `tp2`, `pp2+1-3`, `ep2+distributed+full`, `pp2+mtp`."""

from __future__ import annotations

import functools

from validation.case.layout import Layout
from validation.case.training import Training, mtp_layers, mtp_words


def parse(text: str, shared: Training) -> tuple[Layout, Training, int | None]:
    """The layout, `shared` with what the words after it change, and the MTP layers that one of them gives the model.

    Raises UsageError.
    """
    layout, *words = text.split("+")
    training = functools.reduce(Training.with_word, [word for word in words if mtp_layers(word) is None], shared)
    return Layout.parse(layout), training, next(filter(None, map(mtp_layers, words)), None)


def written(layout: Layout, training: Training, mtp: int | None) -> str:
    """One word for them, the same for all words that `parse` reads alike: `cp2ep2` and `ep2cp2` are `ep2cp2`."""
    return "+".join((layout.name, *mtp_words(mtp or 0), *training.words))
