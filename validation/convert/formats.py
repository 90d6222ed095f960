"""Which format a folder has, and opening it."""

from __future__ import annotations


from validation.case.errors import UsageError
from validation.convert.describe import describe
from validation.convert.huggingface import HuggingFace
from validation.convert.legacy import Legacy
from validation.convert.megatron_args import TRACKER
from validation.convert.rank_files import FILE
from validation.convert.source import Source
from validation.convert.torch_dist import TorchDist
from validation.convert.unfinished import read_manifest


def open_source(path: Path, config: Path | None = None, layers: tuple[int, ...] = (), mtp: bool = True) -> Source:
    """The checkpoint in a folder, whichever format it has.

    `config` is the folder whose config.json describes a Megatron checkpoint; one that was converted here has its own.
    Raises UsageError.
    """
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; name a HuggingFace or Megatron checkpoint folder")
    read_manifest(path)
    place = megatron_folder(path)
    if place is None:
        return HuggingFace.open(path, layers, mtp)
    if layers:
        raise UsageError(f"--layers takes layers of a HuggingFace folder, and {path} is a Megatron checkpoint")
    home = config or next((found for found in (path, place, place.parent) if (found / "config.json").is_file()), None)
    if home is None:
        raise UsageError(
            f"{path}: no config.json beside the checkpoint; name the HuggingFace folder it came from with --hf-model-path"
        )
    described = describe(home, mtp=mtp)
    found = TorchDist.open(place, described) if (place / ".metadata").is_file() else Legacy.open(place, described)
    return found


def megatron_folder(path: Path) -> Path | None:
    """The folder that holds the files of a Megatron checkpoint: the latest that Megatron-LM names, or itself; None for none.

    Raises UsageError where the one that is named is not there.
    """
    tracker = path / TRACKER
    place = path
    if tracker.is_file():
        word = tracker.read_text(encoding="utf-8").strip()
        place = path / (word if word == "release" else f"iter_{int(word):07d}" if word.isdigit() else word)
        if not _is_megatron(place):
            raise UsageError(f"{tracker}: names {word}, and {place} is no checkpoint; the folder is not whole")
    return place if _is_megatron(place) else None


def _is_megatron(place: Path) -> bool:
    return (place / ".metadata").is_file() or any(place.glob(f"mp_rank_*/{FILE}"))
