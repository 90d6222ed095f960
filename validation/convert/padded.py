"""A source whose vocabulary has rows of padding behind it, as Megatron-LM trains with (validation.case.vocabulary)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from validation.case.arrangement import parse
from validation.case.plural import many
from validation.case.training import Training
from validation.case.vocabulary import padded
from validation.compare.piece import Box
from validation.convert.source import Inventory, Source
from validation.convert.stored import Stored


def with_padding(source: Source, text: str) -> Source:
    """The source with the padding that a layout asks for, such as `tp2+vocab128`; as it is without. Raises UsageError."""
    layout, training, _ = parse(text, Training())
    rows = padded(source.described.model, layout, training).vocabulary_rows
    return source if rows == source.described.model.vocabulary_rows else Padded(source, rows)


class Padded(Source):
    """Another source with rows of zeros behind its vocabulary."""

    def __init__(self, source: Source, rows: int) -> None:
        model = replace(source.described.model, padded_vocab_size=rows)
        super().__init__(source.path, replace(source.described, model=model))
        self.format, self._source, self._rows = source.format, source, rows

    def _own(self, name: str, box: Box) -> Box:
        """What of a part the other source has."""
        most = self._source.parameters[name].shape[0]
        return (min(box[0][0], most), min(box[0][1], most)), *box[1:]

    def stored(self, name: str, box: Box) -> tuple[Sequence[Stored], Box]:
        """Where the other source has it; nowhere if some of it is padding."""
        return self._source.stored(name, box) if self._own(name, box) == box else ((), box)

    def dtype(self, name: str) -> torch.dtype:
        """The other source's."""
        return self._source.dtype(name)

    def read(self, name: str, box: Box) -> torch.Tensor:
        """What the other source has, and zeros."""
        own = self._own(name, box)
        if own == box:
            return self._source.read(name, box)
        columns = [stop - start for start, stop in box[1:]]
        found = torch.zeros(box[0][1] - box[0][0], *columns, dtype=self.dtype(name))
        if there := own[0][1] - own[0][0]:
            found[:there] = self._source.read(name, own)
        return found

    def inventory(self) -> Inventory:
        """The other source's."""
        return self._source.inventory()

    @property
    def notes(self) -> tuple[str, ...]:
        """The other source's, and how much is padding."""
        tokens = self.described.model.vocab_size
        added = (
            f"embedding and head get {many(self._rows, 'row')} for {many(tokens, 'token')}: "
            f"{many(self._rows - tokens, 'row of zeros is', 'rows of zeros are')} padding"
        )
        return (*self._source.notes, added)

    @property
    def copies(self) -> bool:
        """As the other source has it."""
        return self._source.copies

    @property
    def quantised(self) -> bool:
        """As the other source says."""
        return self._source.quantised

    def files(self) -> list[Path]:
        """The other source's."""
        return self._source.files()

    def close(self) -> None:
        """Let the other source's files go."""
        self._source.close()
