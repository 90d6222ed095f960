"""What is odd about a folder: where config.json and the files disagree, and what nobody reads. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from validation.case.families import MTP_LAYERS, Described
from validation.case.key_names import GATE_AND_UP, VISION, WRAPPED, absent_file, fused_experts
from validation.case.model import Model
from validation.case.plural import many
from validation.case.strangers import listed, shown
from validation.case.unread import unread
from validation.inspection.stored import SINGLE, Stored


def odd(found: Described, model: Model, stored: Stored, told: Iterable[str]) -> Iterator[str]:
    """A sentence for each. `told` are those of what is wrong with tensors (validation.inspection.wrong)."""
    keys = stored.keys
    yield from _files(stored)
    mtp, said = _mtp_layers(keys, model), found.config.get(MTP_LAYERS) or 0
    if said and not mtp:
        yield f"config.json says {many(said, 'MTP layer')}, and the files hold none; leave +mtp out"
    if mtp and not said:
        yield f"the files hold {many(mtp, 'MTP layer')} that config.json does not name"
    yield from told
    yield from _spelled(keys)
    yield from _head(keys, model)
    if names := unread(found.config):
        yield f"keys of config.json that neither transformers nor Plumbline reads: {listed(names)}"


def with_mtp(found: Described, model: Model, stored: Stored) -> Model:
    """The model with the MTP layers that both config.json and the files have."""
    said = found.config.get(MTP_LAYERS) or 0
    there = _mtp_layers(stored.keys, model)
    return replace(model, num_nextn_predict_layers=min(said, there) if isinstance(said, int) else 0)


def _files(stored: Stored) -> Iterator[str]:
    if stored.missing:
        yield f"the index names {listed(stored.missing)}, which is not there; download the folder again"
    absent = absent_file(stored.files)
    if absent is not None and not stored.missing:
        yield f"{shown(absent)} is not there, by the names of the other files; download the folder again"
    if stored.misplaced:
        yield f"the index has {listed(stored.misplaced)} in a file which does not hold it; download the folder again"
    if stored.two_of_it:
        yield f"{SINGLE} and the files of the index hold the same tensors; transformers reads the first; keep one of them"
    for name in (name for name in stored.beside if not (name == SINGLE and stored.two_of_it)):
        held = sum(tensor.file == name for tensor in stored.tensors.values())
        what = f"holds {many(held, 'tensor')} of its own" if held else "holds what others hold"
        yield f"{shown(name)} is not in the index, and " + (
            "holds tensors of its own and some that others hold; remove it, or these from it" if name in stored.mixed else what
        )
    if not stored.files:
        there = f"; there are {listed(stored.others)}: save the model with save_pretrained" if stored.others else ""
        yield f"there are no safetensors files{there}"
    if stored.twice:
        yield f"{listed(stored.twice)} is in several files; keep the files of one model only"


def _mtp_layers(keys: Mapping[str, str], model: Model) -> int:
    return next(n for n in range(1 << 7) if not _holds(keys, model.num_hidden_layers + n))


def _holds(keys: Mapping[str, str], layer: int) -> bool:
    return f"model.layers.{layer}.eh_proj.weight" in keys or f"model.layers.{layer}.enorm.weight" in keys


def _spelled(keys: Mapping[str, str]) -> Iterator[str]:
    """What the names tell that changes nothing."""
    fused = {found[1] for key in keys if (found := fused_experts(key))}
    if fused:
        how = (
            ", as transformers 5 holds them in memory"
            if GATE_AND_UP in fused
            else f", {many(len(fused), 'matrix', 'matrices')} a layer"
        )
        yield f"experts are fused{how}"
    wrapped = next((prefix for prefix in WRAPPED if any(key.startswith(prefix) for key in keys.values())), None)
    if wrapped is not None:
        yield f"keys begin with `{wrapped}`, as a wrapped model saves them; the prefix is left out"
    pictures = [key for key in keys if key.startswith(VISION)]
    if pictures:
        yield f"{many(len(pictures), 'tensor is', 'tensors are')} of the vision tower, and set aside"


def _head(keys: Mapping[str, str], model: Model) -> Iterator[str]:
    if model.tie_word_embeddings and "lm_head.weight" in keys:
        yield (
            "tie_word_embeddings is true, and there is an lm_head.weight, which must be the embedding again; run and convert "
            "compare the two"
        )
