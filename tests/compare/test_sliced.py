"""Parts of files: the right part, and no more memory than the part."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from tests.gpu.conftest import needs_gpu
from validation.compare import file_bytes, mapped, sliced
from validation.compare.mapped import MappedFile
from validation.compare.piece import Box, slices
from validation.compare.sliced import SlicedFile
from validation.reference.appended import Appended

BOXES: tuple[Box, ...] = (
    ((0, 6), (0, 4), (0, 5)),
    ((2, 3), (0, 4), (0, 5)),
    ((1, 5), (2, 4), (3, 4)),
    ((5, 6), (3, 4), (4, 5)),
)


@pytest.fixture
def array() -> numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float32]]:
    return numpy.arange(120, dtype=numpy.float32).reshape(6, 4, 5)


@pytest.fixture(params=[SlicedFile, MappedFile])
def file(
    request: pytest.FixtureRequest, tmp_path: Path, array: numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float32]]
) -> SlicedFile:
    save_file({"a": torch.from_numpy(array), "scalar": torch.tensor(7.0), "flags": torch.tensor([True, False])}, tmp_path / "f")
    opened: SlicedFile = request.param(tmp_path / "f")
    return opened


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
    """Closing the file, and unlinking it, changes nothing that was read."""
    found = [file.read("a", index) for index in (None, slices(BOXES[0]))]
    file.close()
    file.path.unlink()
    assert [float(tensor.sum()) for tensor in found] == [7140.0, 7140.0]


def test_a_part_is_a_copy_where_the_file_is_not_mapped(file: SlicedFile) -> None:
    """Writing to the tensor changes nothing elsewhere. What is mapped is of the file, and need not be contiguous."""
    first = file.read("a", slices(BOXES[2]))
    assert first.is_contiguous() != isinstance(file, MappedFile)
    if first.is_contiguous():
        first.zero_()
    assert file.read("a", slices(BOXES[2])).sum() != 0


def test_what_lies_across_words_is_read_all_the_same(tmp_path: Path) -> None:
    """A file that was written tensor by tensor has them one behind the other, whatever their dtypes."""
    tensors = {"flags": torch.tensor([True, False, True]), "a": torch.arange(6, dtype=torch.float64).view(2, 3)}
    with Appended(tmp_path / "appended", 2) as file:
        for name, tensor in tensors.items():
            file.add(name, tensor)
    found = MappedFile(tmp_path / "appended")
    assert found.start("a") % 8
    assert all(same(found.read(name), tensor) for name, tensor in tensors.items())
    assert same(found.read("a", (slice(1, 2), slice(0, 2))), tensors["a"][1:2, 0:2])


def test_files_of_the_store_are_mapped_where_they_are_small(file: SlicedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """And only on the CPU."""
    assert type(mapped.opened(file.path, sliced.CPU)) is MappedFile
    assert type(mapped.opened(file.path, torch.device("meta"))) is SlicedFile
    monkeypatch.setattr(mapped, "LARGEST", file.path.stat().st_size - 1)
    assert type(mapped.opened(file.path, sliced.CPU)) is SlicedFile


@pytest.mark.parametrize(("worth", "at_once"), [(1, 1), (16, 40), (64, 1 << 20), (1 << 20, 1)])
def test_any_part_is_what_slicing_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worth: int, at_once: int) -> None:
    """Parts of many shapes and dtypes, empty ones too, in runs of every length and with every amount read at once."""
    monkeypatch.setattr(sliced, "_WORTH_A_READ", worth)
    monkeypatch.setattr(sliced, "AT_ONCE", at_once)
    draw = random.Random(worth)
    kinds = (torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool)
    shapes = [[draw.randrange(1, 8) for _ in range(draw.randrange(5))] for _ in range(30)]
    tensors = {str(n): torch.randint(0, 100, shape).to(draw.choice(kinds)) for n, shape in enumerate(shapes)}
    save_file(tensors, tmp_path / "many")
    read, mapped_too = SlicedFile(tmp_path / "many"), MappedFile(tmp_path / "many")
    for name, tensor in tensors.items():
        for _ in range(8):
            ends = [sorted(draw.choices(range(size + 1), k=2)) for size in tensor.shape]
            index = tuple(slice(*pair) if draw.random() < 0.6 else slice(None) for pair in ends)
            assert same(read.read(name, index), tensor[index]), (name, index)
            assert same(mapped_too.read(name, index), tensor[index]), (name, index)


@pytest.mark.gpu
@needs_gpu
def test_parts_come_onto_a_gpu_through_pinned_buffers(tmp_path: Path) -> None:
    """Larger than all the buffers together, and one after the other into the same ones."""
    large = torch.arange(40 << 20, dtype=torch.int32).view(64, -1)
    save_file({"a": large, "b": large + 1}, tmp_path / "large")
    on_gpu = SlicedFile(tmp_path / "large", torch.device("cuda", 0))
    torch.cuda.set_device(torch.cuda.device_count() - 1)  # another one, where there are several
    parts = {index: on_gpu.read("a", index) for index in ((slice(0, 64), slice(0, 9)), (slice(3, 61), slice(7, None)))}
    whole = [on_gpu.read(name) for name in ("a", "b", "a")]
    assert all(part.is_cuda and torch.equal(part.cpu(), large[index]) for index, part in parts.items())
    assert [torch.equal(found.cpu(), large + more) for found, more in zip(whole, (0, 1, 0), strict=True)] == [True] * 3


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether shape, dtype and every bit are the same; fp8 cannot be compared by torch."""
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right)]
    return left.shape == right.shape and left.dtype == right.dtype and torch.equal(*bits)


def test_a_file_that_ends_early_is_said_to(file: SlicedFile) -> None:
    """No tensor is handed out that is not whole."""
    os.truncate(file.path, file.path.stat().st_size - 8)
    with pytest.raises(file_bytes.EndsEarly, match=r"f: ends \d+ bytes before its header says"):
        [file.read(name) for name in ("a", "flags", "scalar")]


_READ_ALL = """
import re, sys
from pathlib import Path
from validation.compare.sliced import SlicedFile

def resident():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

file = SlicedFile(Path(sys.argv[1]))
file.read("a", (slice(0, 1), slice(0, 8)))
before, total = resident(), 0
for row in range(0, 200, 100):
    part = file.read("a", (slice(row, row + 100), slice(0, 8)))
    total += float(part[:, 0].sum())
print(total, resident() - before)
"""


def test_reading_parts_of_a_large_file_keeps_only_parts_in_memory(tmp_path: Path) -> None:
    """Of 200 MiB eight columns: what is read besides is the 64 MiB that are read at once, at most."""
    rows, columns = 200, 1 << 18
    large = torch.zeros(rows, columns)
    large[:, 0] = torch.arange(rows)
    save_file({"a": large}, tmp_path / "large")
    run = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(tmp_path / "large")], capture_output=True, text=True, check=True, timeout=1800
    )
    total, most_kib = (float(word) for word in re.findall(r"[\d.]+", run.stdout))
    assert total == sum(range(rows))
    assert 32 << 10 < most_kib < 80 << 10
