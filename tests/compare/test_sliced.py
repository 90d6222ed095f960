"""Parts of files: the right part, and no more memory than the part."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from validation.compare.piece import Box, slices
from validation.compare.sliced import SlicedFile

BOXES: tuple[Box, ...] = (
    ((0, 6), (0, 4), (0, 5)),
    ((2, 3), (0, 4), (0, 5)),
    ((1, 5), (2, 4), (3, 4)),
    ((5, 6), (3, 4), (4, 5)),
)


@pytest.fixture
def array() -> numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float32]]:
    return numpy.arange(120, dtype=numpy.float32).reshape(6, 4, 5)


@pytest.fixture
def file(tmp_path: Path, array: numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float32]]) -> SlicedFile:
    save_file({"a": torch.from_numpy(array), "scalar": torch.tensor(7.0), "flags": torch.tensor([True, False])}, tmp_path / "f")
    return SlicedFile(tmp_path / "f")


@pytest.mark.parametrize("box", BOXES, ids=str)
def test_a_slice_is_the_slice(
    file: SlicedFile, array: numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float32]], box: Box
) -> None:
    """What is read is what numpy takes from the array."""
    assert numpy.array_equal(file.read("a", slices(box)).numpy(), array[slices(box)])


def test_what_the_header_says(file: SlicedFile) -> None:
    """Names, shapes and dtypes come without reading a tensor."""
    assert sorted(file.keys()) == ["a", "flags", "scalar"]
    assert file.shape("a") == (6, 4, 5)
    assert (file.dtype("a"), file.dtype("flags")) == ("F32", "BOOL")


def test_a_scalar_has_no_slices(file: SlicedFile) -> None:
    """The loss is read whole."""
    assert file.read("scalar", ()).item() == 7.0


def test_what_was_read_outlives_the_file(file: SlicedFile) -> None:
    """A tensor is a copy: closing the file, or writing to the tensor, changes nothing elsewhere."""
    for index in (None, slices(BOXES[0])):
        first = file.read("a", index)
        file.close()
        first.zero_()
        assert file.read("a", index).sum() != 0


_READ_ALL = """
import re, sys
from pathlib import Path
from validation.compare.sliced import SlicedFile

def mapped():
    return int(re.search(r"RssFile:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

file = SlicedFile(Path(sys.argv[1]))
file.read("a", (slice(0, 1), slice(None)))
before, most, total = mapped(), 0, 0
for row in range(0, 200, 4):
    part = file.read("a", (slice(row, row + 4), slice(None)))
    total += float(part[:, 0].sum())
    most = max(most, mapped() - before)
print(total, most)
"""


def test_reading_a_large_file_in_parts_keeps_only_parts_in_memory(tmp_path: Path) -> None:
    """200 MiB read 4 MiB at a time: what is resident of the mapped file stays near the 64 MiB after which it is let go."""
    rows, columns = 200, 1 << 18
    large = torch.zeros(rows, columns)
    large[:, 0] = torch.arange(rows)
    save_file({"a": large}, tmp_path / "large")
    run = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(tmp_path / "large")], capture_output=True, text=True, check=True, timeout=60
    )
    total, most_kib = (float(word) for word in re.findall(r"[\d.]+", run.stdout))
    assert total == sum(range(rows))
    assert 16 << 10 < most_kib < 80 << 10
