"""What model a checkpoint folder holds, and the `config.json` of a part of it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from validation.case.errors import UsageError
from validation.case.families import MTP_LAYERS, Family, described
from validation.case.folder import chosen, read_config
from validation.case.model import Model
from validation.case.parameters import Parameter, parameters
from validation.case.published import from_hf_config
from validation.case.quantisation import BLOCK, block_size, refusal
from validation.case.sizes import check_numbers

_EACH_LAYER = ("mlp_layer_types", "layer_types", "indexer_types")
"""Lists of config.json with an entry for each layer."""


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
    known = described(config, str(folder))
    config = dict(known.config)
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
        config=_config(config, model, layers or tuple(range(in_folder)), known.family),
        layers=layers or tuple(range(in_folder)),
        layers_in_folder=in_folder,
        block=_block(config, folder),
    )


def _config(config: Mapping[str, Any], model: Model, layers: tuple[int, ...], family: Family) -> dict[str, Any]:
    """The `config.json` of these layers. Of some families transformers reads only the list which of them have experts."""
    changed: dict[str, Any] = {
        "num_hidden_layers": model.num_hidden_layers,
        "first_k_dense_replace": model.first_k_dense_replace,
    }
    if MTP_LAYERS in config:
        changed[MTP_LAYERS] = model.num_nextn_predict_layers
    lists = {name: config[name] for name in _EACH_LAYER if isinstance(config.get(name), list)}
    changed |= {name: [given[layer] for layer in layers] for name, given in lists.items() if len(given) > max(layers)}
    if family.ignores_first_k_dense and "mlp_layer_types" not in changed and model.first_k_dense_replace != 1:
        dense = model.first_k_dense_replace
        changed["mlp_layer_types"] = ["dense"] * dense + ["sparse"] * (model.num_hidden_layers - dense)
    return {**config, **changed}


def stored_as(config: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    """The config of weights that are no longer quantised and, where one is given, of that dtype (`bfloat16`)."""
    left = {name: value for name, value in config.items() if name != "quantization_config"}
    if dtype is not None:
        left |= {name: dtype for name in ("dtype", "torch_dtype") if name in config} or {"torch_dtype": dtype}
    return left


def _block(config: Mapping[str, Any], folder: Path) -> tuple[int, int]:
    """The blocks of a quantised checkpoint. Raises UsageError for a quantisation that cannot be read."""
    how = config.get("quantization_config")
    found = block_size(how)
    if found is None:
        raise UsageError(f"{folder}: {refusal(how)}")
    return found
