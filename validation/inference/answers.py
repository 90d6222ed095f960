"""What a rank would say next, compared with what HuggingFace generates."""

from __future__ import annotations

import torch

from validation.candidate.place import device
from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.case.inference import FLIPS, GREEDY
from validation.compare.precision import as_stored
from validation.compare.sliced import SlicedFile
from validation.reference.store import Reference


class Answers:
    """HuggingFace's tokens behind each prompt, and by how much it prefers them."""

    def __init__(self, case: Case, recorder: Recorder, stored: Reference) -> None:
        self._recorder, self._file = recorder, SlicedFile(stored.answers, device())
        self._vocabulary = case.model.vocab_size

    def tokens(self, rows: slice) -> torch.Tensor:
        """Those of some sequences, [rows, tokens]."""
        with as_stored():
            return self._file.read(GREEDY, (rows, slice(None))).long()

    def compare(self, first: int, step: int, logits: torch.Tensor | None) -> None:
        """Compare the token that `logits`, [rows, 1, vocabulary], choose with the one of this step; None where there are none.

        `first` is the first of the sequences.
        """
        if logits is None:
            return
        with as_stored():
            chosen = logits[:, -1, : self._vocabulary].argmax(-1).double()[:, None]
            rows, box = slice(first, first + len(chosen)), ((first, first + len(chosen)), (step, step + 1))
            wanted, margin = (self._file.read(name, (rows, slice(step, step + 1))) for name in (GREEDY, f"{FLIPS}{GREEDY}"))
            self._recorder.measure(GREEDY, chosen, box, wanted, exact=True)
            found = torch.where(chosen != wanted, margin, torch.zeros_like(margin))
            self._recorder.measure(f"{FLIPS}{GREEDY}", found, box, torch.zeros_like(found))
