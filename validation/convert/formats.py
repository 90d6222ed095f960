"""Which format a folder has, and opening it."""

from __future__ import annotations

from pathlib import Path

from validation.case.errors import UsageError
from validation.case.megatron_folder import is_torch_dist, megatron_folder
from validation.convert.describe import describe
from validation.convert.huggingface import HuggingFace
from validation.convert.legacy import Legacy
from validation.convert.source import Source
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
    if not is_torch_dist(place):
        return Legacy.open(place, described)
    from validation.convert.torch_dist import TorchDist  # imports most of torch.distributed

    return TorchDist.open(place, described)
