"""Which kind a file of log-probabilities is, and its dump."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

from validation.case.errors import UsageError
from validation.case.model import Model
from validation.case.strangers import shown
from validation.rollout import own, responses, trainers
from validation.rollout.dump import Dump, Said, check_trainer
from validation.rollout.made_with import MadeWith


def read(path: Path, made: MadeWith, model: Model) -> Dump:
    """The dump of a file of any kind, its routed experts those of the layers that have experts. Raises UsageError."""
    found = _read(path, made, model)
    check_trainer(found)
    return replace(found, sequences=tuple(_fitted(one, model) for one in found.sequences))


def _read(path: Path, made: MadeWith, model: Model) -> Dump:
    if not path.is_file():
        raise UsageError(f"{path}: {'is no regular file' if path.exists() else 'no such file'}; {own.REMEDY}")
    if path.suffix == ".safetensors":
        return _tensors(path, made)
    if path.suffix in (".pt", ".pth"):
        return trainers.read(path, made)
    values = responses.values(path)
    first = next(values, None)
    if engine := responses.kind_of(first):
        return responses.read(path, engine, chain([first], values), made, model.num_hidden_layers, model.num_experts_per_tok)
    if own.is_own(first):
        made.refuse(path)
    return own.read(path)


def _tensors(path: Path, made: MadeWith) -> Dump:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no safetensors file ({shown(str(error))}); {own.REMEDY}") from None
    if trainers.names_of(names):
        return trainers.of_tensors(path, load_file(path), made)
    made.refuse(path)
    return own.read(path)


def _fitted(one: Said, model: Model) -> Said:
    """Engines tell a choice of every layer, and that of a layer without experts means nothing."""
    layers = model.num_hidden_layers
    if one.routed is None or layers == len(model.moe_layers) or any(len(row) != layers for row in one.routed):
        return one
    return replace(one, routed=tuple(tuple(row[layer] for layer in model.moe_layers) for row in one.routed))
