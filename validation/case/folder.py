"""What a HuggingFace checkpoint folder says of its model, read from `config.json` alone. No torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from validation.case.errors import UsageError
from validation.case.model import Model
from validation.case.published import from_hf_config
from validation.case.sizes import check_numbers
from validation.case.strangers import read_json

_LARGEST, _VALUES = 4 << 20, 100_000
"""Bytes of a config.json, and values in it. DeepSeek-V3's has 2 KB and 50."""


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; name one that holds config.json and safetensors files")
    if not (folder / "config.json").exists():
        within = sorted(path.parent for path in folder.glob("snapshots/*/config.json"))
        where = f", such as {within[-1]}" if within else ""
        raise UsageError(f"{folder}: no config.json; name a HuggingFace checkpoint folder{where}")
    config = read_json(folder / "config.json", _LARGEST, _VALUES, "download it again")
    if not isinstance(config, dict):
        raise UsageError(f"{folder}: config.json is not a JSON object; download it again")
    return config


def model_from_folder(path: str | Path, layers: tuple[int, ...] = ()) -> Model:
    """The model of a checkpoint folder; with `layers`, of those of its layers only. Raises UsageError."""
    model = from_hf_config(read_config(Path(path)), str(path))
    check_numbers(model, str(path))
    return chosen(model, layers, str(path))


def chosen(model: Model, layers: tuple[int, ...], source: str) -> Model:
    """The model of these layers of `model` only; of all for none. Raises UsageError."""
    if not layers:
        return model
    count = model.num_hidden_layers
    if sorted(set(layers)) != list(layers) or layers[0] < 0 or layers[-1] >= count:
        said = ",".join(map(str, layers))
        raise UsageError(f"--layers {said}: give layers of {source} in ascending order, each once, from 0 to {count - 1}")
    dense = sum(layer < model.first_k_dense_replace for layer in layers)
    return replace(model, num_hidden_layers=len(layers), first_k_dense_replace=dense)
