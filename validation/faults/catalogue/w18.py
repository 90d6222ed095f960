"""A conversion pads each rank's part of the vocabulary in place of the whole.

It cuts the vocabulary into equal parts first. The padding belongs behind its end.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="a conversion pads each rank's part of the vocabulary in place of the whole",
    sources=("https://github.com/hpcaitech/ColossalAI/pull/6124",),
    first="weights/lm_head.weight",
    layouts=("tp2+vocab8",),
    needs="tp",
    numbers=(("vocab_size", "129"),),
)


def built(case: Case, model: Any) -> None:
    def moved(loaded: Loaded) -> None:
        each = case.model.vocab_size // case.layout.tp
        for part, view in loaded.parts("lm_head.weight"):
            rank = part.box[0][0] // len(view)
            last = case.model.vocab_size if rank == case.layout.tp - 1 else (rank + 1) * each
            tokens = loaded.read("lm_head.weight", ((rank * each, last), part.box[1]))
            view.zero_()
            view[: len(tokens)].copy_(tokens)

    after_loading(moved)
