"""The legacy format: one file for each rank that has weights of its own, `mp_rank_TT[_PPP][_EEE]/model_optim_rng.pt`.

That one rank of each (tp, pp, ep) writes is Megatron-LM's rule (save_checkpoint in megatron/training/checkpointing.py).
"""

from __future__ import annotations

import importlib
import pickle
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from validation.candidate import platform
from validation.candidate.checkpoint.archive import loaded
from validation.candidate.checkpoint.pickled import Asked, Refused
from validation.candidate.checkpoint.places import Arrangement
from validation.candidate.checkpoint.tensors import MTP_BLOCK, YOUNGER_MTP_BLOCK, Chunk, Megatron, Tensor
from validation.candidate.weights import Ranks
from validation.case import tree
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.megatron_folder import rank_file
from validation.case.model import Model
from validation.case.strangers import shown

_STATE = re.compile(r"model\d*")
_ASKED = re.compile(r"GLOBAL (\S+) (?:was not an allowed global|whose module)")
"""Where torch says which name its unpickler was asked for."""


@dataclass(frozen=True)
class RankFile:
    """The file of a rank: its path below the checkpoint, and the place that it stands for."""

    path: str
    stage: int
    ranks: Ranks


def rank_files(layout: Layout) -> list[RankFile]:
    """The files of a layout, in the order of the ranks. Raises UsageError where files cannot be told apart by their names."""
    found: dict[str, RankFile] = {}
    for rank in range(layout.ranks):
        file, first = _of_rank(rank, layout)
        known = found.get(file.path)
        if known is None and first:
            found[file.path] = file
        elif known is not None and known.ranks.etp != file.ranks.etp:
            raise UsageError(
                f"layout {layout.name}: legacy files are named by tp, pp and ep alone, and ranks of the same have different "
                f"parts of experts here (etp{layout.expert_tp}); choose --format torch_dist, or an etp up to tp"
            )
    return list(found.values())


def _of_rank(rank: int, layout: Layout) -> tuple[RankFile, bool]:
    """A rank's file, and whether the rank writes: it is the first of its data-parallel ranks, for dense tensors or experts.

    megatron-core numbers ranks with tp first, then cp, ep and dp, and pp last.
    """
    stage, within = divmod(rank, layout.ranks // layout.pp)
    tp, etp, ep = layout.tp, layout.expert_tp, layout.ep
    ranks = Ranks(tp=(within % tp, tp), etp=(within % etp, etp), ep=(within // etp % ep, ep))
    first = within < tp * layout.cp or within < etp * ep
    return RankFile(rank_file(ranks.tp[0], stage, ranks.ep[0], layout), stage, ranks), first


def tensors_of(megatron: Megatron, arrangement: Arrangement, model: Model, file: RankFile) -> Iterator[tuple[str, str, Tensor]]:
    """Each tensor of a rank's file: the state dict that it is in (`model`, `model0` ...), its name there, and what it is."""
    chunks = arrangement.chunks(model, file.stage)
    for number, chunk in enumerate(chunks):
        state = "model" if len(chunks) == 1 else f"model{number}"
        for tensor in megatron.tensors(file.ranks, chunk):
            yield state, _local(tensor.name, chunk, megatron.mtp_block), tensor


def _local(name: str, chunk: Chunk, mtp_block: str) -> str:
    """The name in the rank's own numbers and words: layers count from the first of the chunk."""
    block, dot, rest = name.partition(".layers.")
    if block == "mtp":
        return name.replace(f".{MTP_BLOCK}.", f".{mtp_block}.", 1)
    if block != "decoder" or not dot:
        return name
    layer, _, inner = rest.partition(".")
    return f"decoder.layers.{int(layer) - chunk.layers.start}.{inner}"


def mtp_block_in(names: Iterable[str]) -> str:
    """What the names of a rank's state call an MTP layer's decoder layer; the older word if there is none."""
    return YOUNGER_MTP_BLOCK if any(f".{YOUNGER_MTP_BLOCK}." in name for name in names) else MTP_BLOCK


def without_data(path: Path) -> dict[str, Any]:
    """All of a rank's file, of tensors without their data. Raises UsageError where it holds more than weights and settings."""
    if not path.is_file():
        raise UsageError(f"{path}: is missing; the checkpoint is not whole")
    try:
        found = _loaded(path)
    except ImportError as error:  # what its arguments are of, megatron-core's classes, cannot be imported
        raise UsageError(
            f"{path}: its arguments need megatron-core, which cannot be imported here ({shown(str(error))}); "
            f"`{tree.VALIDATION} doctor` says what is missing"
        ) from None
    except Exception as error:  # whatever torch and its unpickler say of a file that anybody may have made
        raise UsageError(f"{path}: {_reason(error)}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"{path}: holds {shown(found)} and no state of a model; save the checkpoint again")
    wrong = next((name for name in found if _STATE.fullmatch(name) and not _is_state(found[name])), None)
    if wrong is not None:
        raise UsageError(f"{path}: {wrong} is no state of a model; save the checkpoint again")
    return found


def _is_state(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(name, str) for name in found)


def _loaded(path: Path) -> Any:
    with torch.serialization.safe_globals([Namespace]):
        try:
            return loaded(path, map_location="meta")
        except Refused:
            raise
        except pickle.UnpicklingError:
            # Its arguments are of classes that megatron-core calls safe when it is imported.
            with platform.unused_kernels():
                importlib.import_module("megatron.core")
            return loaded(path, map_location="meta")


def _reason(error: Exception) -> str:
    """Why a file cannot be read. torch's own sentence advises to load it without protection."""
    if isinstance(error, Refused) and not isinstance(error, Asked):
        return shown(str(error))
    found = _ASKED.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    asked = error.name if isinstance(error, Asked) else found and found[1]
    if asked:
        return (
            f"asks for {shown(asked)}, which is neither a weight nor a setting that megatron-core calls safe; nothing "
            "of it was run, save the checkpoint again without that"
        )
    said = "" if isinstance(error, pickle.UnpicklingError) else (str(error) or type(error).__name__).partition("\n")[0]
    return f"cannot be read{said and f' ({shown(said)})'}; the file is damaged"
