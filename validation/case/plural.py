"""Numbers of things, as a sentence has them: `1 check`, `3 checks`."""

from __future__ import annotations


def many(number: float, words: str, plural: str = "", spec: str = "") -> str:
    """`1 rank`, `2 ranks`, `4 groups of experts`: the first word of `words` has the plural.

    Of words whose plural has no s at that place, `plural` has it: `many(2, "check fails", "checks fail")`. `spec` is how the
    number is written.
    """
    if number == 1:
        return f"{number:{spec}} {words}"
    word, *rest = words.split(" of ")
    return f"{number:{spec}} {plural or ' of '.join([f'{word}s', *rest])}"
