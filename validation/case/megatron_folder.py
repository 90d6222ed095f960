"""Where the files of a Megatron checkpoint lie, by Megatron-LM's own names. No torch.

The names are those of its megatron/training/checkpointing.py: get_checkpoint_name, get_checkpoint_tracker_filename.
"""

from __future__ import annotations

from pathlib import Path

from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.plural import many
from validation.case.strangers import quoted, read_bytes

TRACKER = "latest_checkpointed_iteration.txt"
_LARGEST, _DIGITS = 256, 18
"""Bytes of that file, and digits of its number."""
RELEASE = "release"
"""The folder of a checkpoint that no training step has led to; Megatron-LM takes the weights alone from it."""
RANK_FILE = "model_optim_rng.pt"


def megatron_folder(path: Path) -> Path | None:
    """The folder that holds the files of a Megatron checkpoint: the latest that its tracker names, or itself; None for none.

    Raises UsageError where the one that is named is not there, and where a checkpoint was not written to its end.
    """
    tracker = path / TRACKER
    if not tracker.exists():
        if _holds_one(path):
            return path
        _refuse_parts(path)
        return None
    word = read_bytes(tracker, _LARGEST, "save the checkpoint again").decode("utf-8", "replace").strip()
    numbered = word.isascii() and word.isdigit() and len(word) <= _DIGITS
    place = path / (f"iter_{int(word):07d}" if numbered else RELEASE)
    if not (numbered or word == RELEASE) or not _holds_one(place):
        raise UsageError(f"{tracker} says {quoted(word)}, and {place} holds no checkpoint; the folder is not whole")
    return place


def _refuse_parts(path: Path) -> None:
    """Raises UsageError for a folder of checkpoints that names none of them, and for one whose last file is missing."""
    if next(path.glob("*.distcp"), None) is not None:
        raise UsageError(
            f"{path}: has .distcp files and no .metadata, which is written last: saving did not end, or files were not copied"
        )
    steps = sorted(found for found in path.glob("iter_*") if found.is_dir() and _holds_one(found))
    if steps:
        raise UsageError(
            f"{path}: has no {TRACKER}, which names one of {many(len(steps), 'checkpoint')}; name {steps[-1]} itself"
        )


def is_torch_dist(place: Path) -> bool:
    """Whether the files are those of megatron-core's dist_checkpointing, and not one for each rank."""
    return (place / ".metadata").is_file()


def _holds_one(place: Path) -> bool:
    return is_torch_dist(place) or any(place.glob(f"mp_rank_*/{RANK_FILE}"))


def rank_file(tp: int, pp: int, ep: int, layout: Layout) -> str:
    """The file of the rank of these numbers, below the checkpoint's folder: `mp_rank_TT[_PPP][_EEE]/model_optim_rng.pt`."""
    stage = f"_{pp:03d}" if layout.pp > 1 else ""
    experts = f"_{ep:03d}" if layout.ep > 1 else ""
    return f"mp_rank_{tp:02d}{stage}{experts}/{RANK_FILE}"
