"""Where bytes lie: they are copied from there where they lie one after the other, and put together where they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from validation.case.errors import UsageError
from validation.compare.piece import Box, slices, whole
from validation.convert import stored
from validation.convert.distcp import Distcp
from validation.convert.distcp_metadata import Item, write_metadata
from validation.convert.stored import Files, Stored, read, runs

WHOLE = torch.arange(4 * 6 * 8, dtype=torch.int32).view(4, 6, 8)


def pieces(folder: Path, *boxes: Box) -> list[Stored]:
    """A file for each part, with something before it."""
    found, files = [], Files()
    for number, box in enumerate(boxes):
        path = folder / f"{number}"
        path.write_bytes(b"before" + WHOLE[slices(box)].contiguous().numpy().tobytes())
        found.append(Stored(path, 6, box, WHOLE.dtype, files))
    return found


ROWS = (((0, 4), (0, 3), (0, 8)), ((0, 4), (3, 6), (0, 8)))
COLUMNS = (((0, 4), (0, 6), (0, 5)), ((0, 4), (0, 6), (5, 8)))
EXPERTS = (((0, 1), (0, 6), (0, 8)), ((1, 4), (0, 6), (0, 8)))


@pytest.mark.parametrize("cut", [ROWS, COLUMNS, EXPERTS], ids=["rows", "columns", "experts"])
@pytest.mark.parametrize(
    "box", [whole(WHOLE.shape), ((2, 3), (1, 5), (0, 8)), ((1, 3), (2, 4), (3, 7)), ((3, 4), (5, 6), (7, 8))]
)
def test_any_part_is_read_from_any_cut(cut: tuple[Box, ...], box: Box, tmp_path: Path) -> None:
    """Whole or in part, from one file or several, in whichever order they come."""
    found = read(reversed(pieces(tmp_path, *cut)), box, WHOLE.dtype)
    assert found is not None
    assert torch.equal(found, WHOLE[slices(box)])


@pytest.mark.parametrize(
    ("cut", "box", "count"),
    [
        (ROWS, ((2, 3), (1, 5), (0, 8)), 2),
        (EXPERTS, whole(WHOLE.shape), 2),
        (ROWS, whole(WHOLE.shape), 0),
        (COLUMNS, ROWS[0], 0),
    ],
)
def test_runs_are_the_bytes_in_their_order(cut: tuple[Box, ...], box: Box, count: int, tmp_path: Path) -> None:
    """As many as files have them in a row; none where rows of one file lie between those of another."""
    found = runs(reversed(pieces(tmp_path, *cut)), box, WHOLE.dtype)
    data = bytearray(sum(run.bytes for run in found))
    place = 0
    for run in found:
        run.read_into(0, memoryview(data)[place : place + run.bytes])
        place += run.bytes
    assert len(found) == count
    assert not found or bytes(data) == WHOLE[slices(box)].contiguous().numpy().tobytes()


def test_there_is_no_run_of_another_dtype_or_of_a_part_that_is_missing(tmp_path: Path) -> None:
    """It must be cast, or is nowhere."""
    assert runs(pieces(tmp_path, *EXPERTS), whole(WHOLE.shape), torch.float32) == []
    assert runs(pieces(tmp_path, ROWS[0]), whole(WHOLE.shape), WHOLE.dtype) == []
    assert read(pieces(tmp_path, ROWS[0]), whole(WHOLE.shape), WHOLE.dtype) is None


def test_a_file_that_ends_early(tmp_path: Path) -> None:
    """Said of it, as of one that is gone."""
    (piece,) = pieces(tmp_path, whole(WHOLE.shape))
    piece.path.write_bytes(piece.path.read_bytes()[:-1])
    with pytest.raises(UsageError, match="ends before its last tensor"):
        piece.read(piece.box)
    piece.path.unlink()
    piece.files.close()
    with pytest.raises(UsageError, match="cannot be read"):
        piece.read(piece.box)


def test_few_files_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layout of a thousand ranks has more than a process may open."""
    monkeypatch.setattr(stored, "_OPEN", 1)
    found = read(pieces(tmp_path, *ROWS), whole(WHOLE.shape), WHOLE.dtype)
    assert found is not None
    assert torch.equal(found, WHOLE)


SAVED: dict[str, tuple[Callable[[torch.Tensor, Path], None], bool]] = {
    "as usual": (torch.save, True),
    "a part of a larger storage": (lambda tensor, path: torch.save(torch.cat([tensor, tensor])[4:], path), True),
    "not contiguous": (lambda tensor, path: torch.save(tensor.transpose(0, 1).contiguous().transpose(0, 1), path), False),
    "in another dtype": (lambda tensor, path: torch.save(tensor.long(), path), False),
}


@pytest.mark.parametrize("name", SAVED)
def test_items_however_they_were_saved(name: str, tmp_path: Path) -> None:
    """From where their bytes lie if they are as torch.save makes them today, else by torch's reader."""
    save, plain = SAVED[name]
    save(WHOLE, tmp_path / "__0_0.distcp")
    length = (tmp_path / "__0_0.distcp").stat().st_size
    item = Item("w", "__0_0.distcp", 0, length, tuple(WHOLE.shape), whole(WHOLE.shape), WHOLE.dtype)
    write_metadata(tmp_path, [[item]])
    distcp = Distcp.open(tmp_path, Files())
    box = ((1, 2), (2, 5), (0, 8))
    assert bool(distcp.stored("w", box)) is plain
    assert torch.equal(distcp.read("w", box), WHOLE[slices(box)])


def test_an_item_of_a_format_before_torch_1_6_is_refused(tmp_path: Path) -> None:
    """What its pickle would do cannot be told before it is read. No supported release of megatron-core writes it."""
    torch.save(WHOLE, tmp_path / "__0_0.distcp", _use_new_zipfile_serialization=False)
    length = (tmp_path / "__0_0.distcp").stat().st_size
    item = Item("w", "__0_0.distcp", 0, length, tuple(WHOLE.shape), whole(WHOLE.shape), WHOLE.dtype)
    write_metadata(tmp_path, [[item]])
    with pytest.raises(UsageError, match=r"w cannot be read \(Refused\); the files are damaged"):
        Distcp.open(tmp_path, Files()).read("w", ((1, 2), (2, 5), (0, 8)))
