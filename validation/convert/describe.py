"""What model a checkpoint folder holds, and the `config.json` of a part of it. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from validation.case.errors import UsageError
from validation.case.families import described
from validation.case.folder import chosen, read_config
from validation.case.model import Model
from validation.case.parameters import Parameter, parameters
from validation.case.published import from_hf_config
from validation.case.sizes import check_numbers
from validation.case.strangers import shown

MTP_LAYERS = "num_nextn_predict_layers"
BLOCK = (128, 128)
_PACKED = "pack-quantized"


@dataclass(frozen=True)
class Described:
    """A model with the `config.json` that describes it.

    `layers` are those of the folder that the model has, in the folder's own numbers; its MTP layers follow the folder's
    `layers_in_folder`. `block` is the size of the blocks that share a scale, where weights are stored in fp8.
    """

    model: Model
    config: Mapping[str, Any]
    layers: tuple[int, ...]
    layers_in_folder: int
    block: tuple[int, int] = BLOCK

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Every parameter of the checkpoint by name, in data-flow order."""
        return dict(parameters(self.model))


def describe(folder: Path, layers: tuple[int, ...] = (), mtp: bool = True) -> Described:
    """The model of a folder's `config.json`: of `layers` of it where they are given, without MTP layers where `mtp` is false.

    Raises UsageError.
    """
    config = read_config(folder)
    model = from_hf_config(config, str(folder))
    check_numbers(model, str(folder))
    config = dict(described(config, str(folder)).config)
    in_folder = model.num_hidden_layers
    nextn = config.get(MTP_LAYERS) or 0
    check_numbers(replace(model, num_nextn_predict_layers=nextn), str(folder))
    model = replace(chosen(model, layers, str(folder)), num_nextn_predict_layers=nextn if mtp else 0)
    if model.mtp_layers and not model.moe_layers:
        raise UsageError(
            f"{folder}: an MTP layer has experts and Megatron-Core makes it like the model's last layer, which is dense here; "
            "choose --layers that end with one of experts, or give --no-mtp"
        )
    return Described(
        model=model,
        config=_config(config, model),
        layers=layers or tuple(range(in_folder)),
        layers_in_folder=in_folder,
        block=_block(config, folder),
    )


def _config(config: Mapping[str, Any], model: Model) -> dict[str, Any]:
    changed = {"num_hidden_layers": model.num_hidden_layers, "first_k_dense_replace": model.first_k_dense_replace}
    if MTP_LAYERS in config:
        changed[MTP_LAYERS] = model.num_nextn_predict_layers
    return {**config, **changed}


def stored_as(config: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    """The config of weights that are no longer quantised and, where one is given, of that dtype (`bfloat16`)."""
    left = {name: value for name, value in config.items() if name != "quantization_config"}
    if dtype is not None:
        left |= {name: dtype for name in ("dtype", "torch_dtype") if name in config} or {"torch_dtype": dtype}
    return left


def _block(config: Mapping[str, Any], folder: Path) -> tuple[int, int]:
    """The blocks of a quantised checkpoint. Raises UsageError for a quantisation that is not DeepSeek-V3's."""
    how = config.get("quantization_config")
    if how is None:
        return BLOCK
    known = how if isinstance(how, dict) else {}
    if known.get("quant_method") == "compressed-tensors" and known.get("format", _PACKED) == _PACKED:
        return BLOCK
    size = known.get("weight_block_size", list(BLOCK))
    sound = isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 < side <= 1 << 20 for side in size)
    if not sound or known.get("quant_method") != "fp8" or known.get("fmt", "e4m3") != "e4m3":
        raise UsageError(
            f"{folder}: quantization_config in config.json is {_said(how)}; only fp8 in e4m3 with a scale for each block "
            "(weight_block_size), as DeepSeek-V3 is published, and pack-quantized, as Kimi-K2.5 is, can be read"
        )
    return size[0], size[1]


def _said(how: Any) -> str:
    try:
        return shown(json.dumps(how))
    except RecursionError:
        return shown(how)
