"""Whether a Megatron checkpoint is of the model that a case builds, by its names and shapes: no tensor is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from validation.candidate.checkpoint.keys import of_training, places
from validation.candidate.checkpoint.metadata import check_files, read_metadata
from validation.candidate.checkpoint.places import Arrangement
from validation.candidate.checkpoint.rank_files import mtp_block_in, rank_files, tensors_of, without_data
from validation.candidate.checkpoint.tensors import EMBEDDING, HEAD, MTP_BLOCK, Megatron, are_joined, mtp_block_of, of_te
from validation.case.case import TE, Case
from validation.case.errors import PlumblineError, UsageError
from validation.case.megatron_folder import is_torch_dist, megatron_folder
from validation.case.parameters import parameters
from validation.case.plural import many
from validation.case.strangers import read_json, shown
from validation.machine import version

Shapes = Mapping[str, tuple[int, ...]]
_OF_BACKENDS = {"sharded_backend", "sharded_backend_version", "common_backend", "common_backend_version"}
_SMALL = 1 << 12
_LAYER = re.compile(r"(decoder|mtp)\.layers\.(\d{1,9})\.")


def misfit(case: Case) -> str | None:
    """What keeps the case's candidate checkpoint from being loaded, and what would work; None where nothing is known to."""
    place = megatron_folder(Path(case.candidate_checkpoint or ""))
    if case.candidate_checkpoint is None or place is None:
        return None
    try:
        found = _torch_dist(case, place) if is_torch_dist(place) else _legacy(case, place)
    except PlumblineError as error:
        found = str(error)
    return found and f"--candidate-checkpoint {case.candidate_checkpoint}: {found}"


def _torch_dist(case: Case, place: Path) -> str | None:
    whole = read_metadata(place)
    metadata = whole.state_dict_metadata
    _check_backend(place)
    check_files(place, whole)
    found = {
        key: tuple(known.size) for key, known in metadata.items() if isinstance(known, TensorStorageMetadata) and _of_model(key)
    }
    megatron = _megatron(case, found)
    wanted = {place.key: place.shape for place in places(megatron).values()}
    return _other_implementation(case, found) or _other_layers(case, found, wanted) or _other_tensors(case, found, wanted)


def _check_backend(place: Path) -> None:
    """megatron-core has other formats, which its ranks would load with code of their own. Raises UsageError."""
    path = place / "metadata.json"
    said = read_json(path, _SMALL, _SMALL, "save the checkpoint again")
    known = said if isinstance(said, dict) else {}
    backends = [known.get("sharded_backend"), known.get("common_backend", "torch")]
    versions = [known.get(f"{which}_backend_version") for which in ("sharded", "common")]
    unknown = [version for version in versions if not isinstance(version, (int, str, type(None))) or isinstance(version, bool)]
    if unknown:
        raise UsageError(
            f"{path}: names {shown(unknown[0])} as the version of a format, and a number is; save the checkpoint again"
        )
    if backends != ["torch_dist", "torch"] or not known.keys() <= _OF_BACKENDS:
        raise UsageError(
            f"{path}: names {shown(backends[0])} and {shown(backends[1])}; checkpoints of torch_dist and torch are read"
        )


def _of_model(key: str) -> bool:
    return not of_training(key) and "_extra_state" not in key


def _legacy(case: Case, place: Path) -> str | None:
    for file in rank_files(case.layout):
        path = place / file.path
        if not path.is_file():
            return (
                f"it has no {file.path}, which layout {case.layout.name} loads; legacy checkpoints are of one layout: "
                f"`convert --format legacy --layout {case.layout.name}` makes it, and torch_dist serves all"
            )
        found = dict(_states(without_data(path)))
        megatron = _megatron(case, found)
        held = tensors_of(megatron, Arrangement(case.layout, case.training.stages), case.model, file)
        wanted = {f"{state}.{name}": tensor.shape for state, name, tensor in held}
        said = (
            _other_release(found)
            or _other_implementation(case, found)
            or _other_tensors(case, found, wanted)
            or _left_over(found, wanted)
        )
        if said:
            return said
    return None


def _states(held: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a rank's file with their shapes, under the name of their state dict and their own."""
    for state, named in held.items():
        for name, tensor in named.items() if re.fullmatch(r"model\d*", state) else ():
            if torch.is_tensor(tensor) and _of_model(name):
                yield f"{state}.{name}", tuple(tensor.shape)


def _megatron(case: Case, found: Shapes) -> Megatron:
    """The model of the case; a user's own implementation is taken to have the names that the checkpoint has."""
    words = {**dict.fromkeys(TE, "te"), "local": "local", "local-stock": "local-stock"}
    implementation = words.get(case.implementation, _implementation(found))
    block = mtp_block_of(version("megatron-core"))
    return Megatron(case.model, parameters(case.model), implementation, block, are_joined(found))


def _other_release(found: Iterable[str]) -> str | None:
    """A rank's file is loaded by its names, and 0.17 renamed a module. torch_dist has the same names in every release."""
    names = [name for name in found if ".mtp." in name]
    tested = version("megatron-core")
    if not names or mtp_block_in(names) == mtp_block_of(tested):
        return None
    which = "before 0.17" if mtp_block_in(names) == MTP_BLOCK else "from 0.17 on"
    return (
        f"its MTP layers have the names of releases {which}, and megatron-core {tested} does not load them; "
        f"`convert --format legacy --megatron-core {tested}` writes its names, and torch_dist serves all releases"
    )


def _implementation(found: Iterable[str]) -> str:
    return "te" if of_te(found) else "local"


def _other_implementation(case: Case, found: Shapes) -> str | None:
    theirs = _implementation(found)
    ours = "te" if case.uses_te else "local"
    if theirs == ours or ":" in case.implementation:
        return None
    works = "--implementation te works, on GPUs" if theirs == "te" else f"--implementation {theirs} works"
    return (
        f"its tensors have the names of --implementation {theirs}, and this run's is {case.implementation}; {works}, or "
        f"convert the HuggingFace folder again with --implementation {case.implementation}"
    )


def _other_layers(case: Case, found: Shapes, wanted: Shapes) -> str | None:
    """Layers that are missing; those that are left over where it may be the wrong ones that are taken."""
    theirs, ours = (_layers(names, "decoder") for names in (found, wanted))
    if not _layers(found, "mtp") and _layers(wanted, "mtp"):
        return "it has no MTP layer; leave out +mtp, or convert the HuggingFace folder again without --no-mtp"
    # dist_checkpointing takes what it is asked for: the first layers of many are the same ones in both.
    first = case.layers == tuple(range(case.model.num_hidden_layers))
    if not theirs or theirs == ours or (first and theirs > ours):
        return None
    said = f"--layers {','.join(map(str, case.layers))}" if case.layers else "all layers"
    return (
        f"it has {many(len(theirs), 'layer')} and the model has {len(ours)} ({said} of the HuggingFace folder); "
        f"convert and run with "
        "the same --layers"
    )


def _layers(names: Iterable[str], block: str) -> set[int]:
    return {int(found[2]) for found in map(_LAYER.match, names) if found and found[1] == block}


def _other_tensors(case: Case, found: Shapes, wanted: Shapes) -> str | None:
    for name, shape in wanted.items():
        theirs = found.get(name)
        if theirs is None and ":" not in case.implementation:
            return f"it has no {name}, which the model has; it must be of the same model, layers and --implementation"
        if theirs is not None and theirs != shape and not _padded(name, theirs, shape):
            return f"{name} has shape {theirs} and the model needs {shape}; it must be of the same model"
    return None


def _padded(name: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    """Training may have made the vocabulary larger; megatron-core takes the rows that there are."""
    return name in (EMBEDDING, HEAD) and theirs[0] > ours[0] and theirs[1:] == ours[1:]


def _left_over(found: Shapes, wanted: Shapes) -> str | None:
    """A rank's file is loaded whole."""
    left = [name for name in found if name not in wanted]
    # Those of an MTP layer first: the embedding that comes with it on the last stage would say less.
    name = next((name for name in left if ".mtp." in name), next(iter(left), None))
    without = not any(".mtp." in one for one in wanted)
    works = (
        "+mtp behind the layout loads it" if name and ".mtp." in name and without else "it must be of the same model and layers"
    )
    return name and f"it has {name}, and the model has no such tensor; {works}"
