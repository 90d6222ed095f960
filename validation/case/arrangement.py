"""A layout with the options of its step, as one word: `tp2`, `pp2+1-3`, `ep2+distributed+full`, `pp2+mtp`."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence

from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.model import ASKED_FOR
from validation.case.plural import many
from validation.case.strangers import shown
from validation.case.training import WORDS, Training, mtp_layers, mtp_words


def parse(text: str, shared: Training, given: int | None = None) -> tuple[Layout, Training, int | None]:
    """The layout, `shared` with what the words after it change, and the MTP layers that one of them gives the model.

    `given` is their number if the model has been given one: `+mtp` alone then asks for as many. In any order a setting changes
    one field of what an option stands for: `+selective+recompute_modules=null`. Raises UsageError.
    """
    layout, *words = cut(text)
    options = sorted((word for word in words if mtp_layers(word) is None), key=lambda word: word not in WORDS)
    training = functools.reduce(Training.with_word, options, shared)
    _refuse_two_of_one_option(text, options, shared)
    return Layout.parse(layout), training, _mtp(text, words, given)


def short(text: str) -> str:
    """The same as names of files have it: many settings are their number and a digest. What nobody can read stays."""
    if len(text) <= _SHORT:
        return text
    try:
        layout, training, mtp = parse(text, Training())
    except UsageError:
        return text
    return "+".join((layout.name, *mtp_words(mtp or 0), *training.label))


_SHORT = 60
"""Characters in which an arrangement is read at a glance."""


def cut(text: str) -> list[str]:
    """The parts between plus signs that stand in no quotes: `cp2` and `cp_comm_type="a2a+p2p"`.

    That value of upstream's has a plus sign itself, and so has a number such as 1e+20. They need no quotes.
    """
    parts = text.split('"')
    parts[::2] = [part.replace(_HIERARCHICAL, f'"{_HIERARCHICAL}"') for part in parts[::2]]
    quoted = '"'.join(parts).split('"')
    quoted[::2] = [_JOINING.sub("\0", part) for part in quoted[::2]]
    return '"'.join(quoted).split("\0")


_HIERARCHICAL = "a2a+p2p"
_JOINING = re.compile(r"(?<![0-9.][eE])\+|\+(?![0-9])")
"""A plus sign that is none of an exponent, such as that of 1e+20."""


def _refuse_two_of_one_option(text: str, words: Sequence[str], shared: Training) -> None:
    """Raises UsageError for two words of which the last would count alone, such as +static+dynamic. Options stand first."""
    for one, other in itertools.combinations(words, 2):
        both = shared.with_word(one).with_word(other)
        if both != shared.with_word(other).with_word(one) and (other in WORDS or not _stands(one, both)):
            raise UsageError(f"{shown(text)}: +{shown(one)} and +{shown(other)} exclude each other; leave one of them out")


def _stands(word: str, training: Training) -> bool:
    """Whether an option is still there beside a setting."""
    name, value = WORDS.get(word, ("", ""))
    return bool(name) and getattr(training, name) == value


def _mtp(text: str, words: Sequence[str], given: int | None) -> int | None:
    asked = {count for word in words if (count := mtp_layers(word, given or 1)) is not None}
    if len(asked) > 1:
        raise UsageError(f"{shown(text)} asks for {' and for '.join(map(str, sorted(asked)))} MTP layers; give one number")
    found = next(iter(asked), None)
    if given is not None and found not in (None, given):
        said = f"{shown(text)} asks for {many(found, 'MTP layer')} and --set {ASKED_FOR}={given} for {given}"
        raise UsageError(f"{said}; give one number")
    return found


def written(layout: Layout, training: Training, mtp: int | None) -> str:
    """One word for them, the same for all words that `parse` reads alike: `cp2ep2` and `ep2cp2` are `ep2cp2`."""
    return "+".join((layout.name, *mtp_words(mtp or 0), *training.words))
