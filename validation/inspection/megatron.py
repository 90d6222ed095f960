"""What the files of a Megatron checkpoint tell, by their names and sizes. No torch."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from validation.case.megatron_folder import RANK_FILE, is_torch_dist
from validation.case.plural import many

_RANK = re.compile(r"mp_rank_(\d{2,6})(?:_(\d{3,6}))?(?:_(\d{3,6}))?")
_OF_TE = b"layer_norm_weight"
_MOST_BYTES = 1 << 26
_STEP = re.compile(r"iter_(\d{1,18})")


def form(place: Path) -> str:
    """The format, and of a legacy one how many ranks have a file."""
    if is_torch_dist(place):
        return "torch_dist: any layout loads it"
    ranks = _ranks(place)
    tensor, further = (len({found[at] for found in ranks}) for at in (0, 1))
    more = f" and {further} stages or sets of experts" if further > 1 else ""
    return f"legacy: a file for each of {many(len(ranks), 'rank')}, {tensor} of tensor parallelism{more}"


def of_te(place: Path) -> bool:
    """Whether tensors have the names of Transformer Engine's layers, as the bytes of the index tell; nothing is loaded."""
    return _OF_TE in _index(place)


def _index(place: Path) -> bytes:
    """What names the tensors: .metadata of torch_dist, and the pickle in a rank's file; empty if there is none."""
    if is_torch_dist(place):
        with (place / ".metadata").open("rb") as file:
            return file.read(_MOST_BYTES)
    for path in sorted(place.glob(f"mp_rank_*/{RANK_FILE}"))[:1]:
        with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("/data.pkl"):
                    with archive.open(name) as file:
                        return file.read(_MOST_BYTES)
    return b""


def which(folder: Path, place: Path) -> str:
    """The step that was saved, and where."""
    step = _STEP.fullmatch(place.name)
    said = f"step {int(step[1])}" if step else "no step of training"
    return said if place == folder else f"{said}, in {place.name}"


def files(place: Path) -> str:
    """How many there are, and how large."""
    found = [path for path in place.rglob("*") if path.is_file()]
    return f"{many(len(found), 'file')}, {sum(path.stat().st_size for path in found) / 2**30:.2f} GiB"


def odd(folder: Path, place: Path) -> Iterator[str]:
    """What a reader should know of the files."""
    others = sorted(path.name for path in folder.glob("iter_*") if path.is_dir() and path != place)
    if others:
        yield (
            f"{many(len(others), 'other step is', 'other steps are')} there ({', '.join(others[:3])}); name a folder "
            f"itself to take it"
        )
    if is_torch_dist(place) and not any(place.glob("*.distcp")):
        yield ".metadata is there and no .distcp file: files were not copied"
    ranks = _ranks(place) if not is_torch_dist(place) else []
    tensor = {found[0] for found in ranks}
    if ranks and len(tensor) != max(tensor) + 1:
        yield f"tensor-parallel ranks {', '.join(map(str, sorted(tensor)))} have a file, and others have none"


def _ranks(place: Path) -> list[tuple[int, tuple[str, ...]]]:
    """Of each rank's file the tensor-parallel rank, and its other numbers as they are written."""
    found = (_RANK.fullmatch(path.parent.name) for path in place.glob(f"mp_rank_*/{RANK_FILE}"))
    return [(int(one[1]), (one[2] or "", one[3] or "")) for one in found if one]
