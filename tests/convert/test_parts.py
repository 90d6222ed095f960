"""Files are written whole, and a plan that would lose something is never begun."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.convert import folders
from tests.convert.folders import MODEL
from validation.compare.piece import whole
from validation.convert.formats import open_source
from validation.convert.parts import Stream, Taken, check_cover, grouped


class Halves(io.BytesIO):
    """A file that takes half of what it is given, as one on a disk that becomes full may."""

    def write(self, data: Any) -> int:
        """Says how much that was."""
        return super().write(memoryview(data)[: len(data) // 2 + 1])


def test_what_a_file_did_not_take_is_given_again() -> None:
    """Nothing is lost where a write is cut short."""
    file = Halves()
    stream = Stream(cast(Any, file))
    stream.write(b"0123456789")
    stream.flush()
    assert (file.getvalue(), stream.size, stream.crc32) == (b"0123456789", 10, zlib.crc32(b"0123456789"))


def test_a_parameter_that_is_not_wholly_written(tmp_path: Path) -> None:
    """Half of one, or none of it."""
    with open_source(folders.write(tmp_path / "hf", MODEL, folders.weights(MODEL))) as source:
        taken = [Taken(name, whole(found.shape), torch.bfloat16) for name, found in source.parameters.items()]
        check_cover(taken, source.parameters)
        half = replace(taken[3], box=((0, 1), *taken[3].box[1:]))
        for lost in ([*taken[:3], *taken[4:]], [*taken[:3], half, *taken[4:]]):
            with pytest.raises(AssertionError, match="would not be written"):
                check_cover(lost, source.parameters)


def test_files_have_their_size() -> None:
    """Runs up to the limit, in order; what is larger stands alone."""
    assert grouped([("a", 4), ("b", 5), ("c", 3), ("d", 20), ("e", 1)], 9) == [["a", "b"], ["c"], ["d"], ["e"]]
