"""Writes what people bring, in small: `python -m tests.families.brought NAME DIR`.

A family's name writes a checkpoint as it is published, with random weights; the other names are of folders that people
complained of. docs/checkpoints.md has a row for each, with the command that was run on it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.convert import folders
from tests.convert.folders import FP8, MODEL, TIED, WITHOUT_MTP, Tensors
from tests.convert.test_int4 import CONFIG as INT4
from tests.convert.test_int4 import quantised as packed
from tests.convert.test_spellings import fused
from tests.reference.published_families import CONFIGS
from validation.case.families import described
from validation.case.model import Model
from validation.reference.as_read import Parts

Written = Callable[[Path], object]


def _folder(model: Model, change: Callable[[Tensors], Tensors] = dict, **more: Any) -> Written:
    """Writes a folder of the model, its tensors changed, with these keys in config.json."""
    mtp = {"num_nextn_predict_layers": model.num_nextn_predict_layers}
    return lambda place: folders.write(place, model, change(folders.weights(model)), **{**mtp, **more})


def _without(*endings: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if not key.endswith(endings)}


def _with_head(change: float) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + change}


def _scales(kind: torch.dtype) -> Callable[[Tensors], Tensors]:
    """Blocks of fp8 whose scales are powers of two."""

    def made(tensors: Tensors) -> Tensors:
        found = folders.quantised(tensors)
        return {key: t.log2().round().exp2().to(kind) if key.endswith("_scale_inv") else t for key, t in found.items()}

    return made


def _mtp_beside(place: Path) -> None:
    """The MTP layer in a file of its own, which the index does not name."""
    whole = folders.weights(MODEL)
    last = {key: tensor for key, tensor in whole.items() if key.startswith(f"model.layers.{MODEL.num_hidden_layers}.")}
    folders.write(place, MODEL, {key: whole[key] for key in whole.keys() - last.keys()}, num_nextn_predict_layers=1)
    save_file(last, place / "mtp.safetensors")


def _bins(place: Path) -> None:
    """Weights in a pickle of torch's alone."""
    folders.write(place, WITHOUT_MTP, folders.weights(WITHOUT_MTP), shards=1, num_nextn_predict_layers=0)
    (place / "model.safetensors").unlink()
    torch.save(folders.weights(WITHOUT_MTP), place / "pytorch_model.bin")


def _without_index(place: Path) -> None:
    folders.write(place, WITHOUT_MTP, folders.weights(WITHOUT_MTP), num_nextn_predict_layers=0)
    (place / "model.safetensors.index.json").unlink()


def _index_of_another(place: Path) -> None:
    """An index that says of a tensor that it is in a file which has it not."""
    folders.write(place, WITHOUT_MTP, folders.weights(WITHOUT_MTP), num_nextn_predict_layers=0)
    path = place / "model.safetensors.index.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    first, second = sorted(set(said["weight_map"].values()))
    said["weight_map"]["model.norm.weight"] = {first: second, second: first}[said["weight_map"]["model.norm.weight"]]
    path.write_text(json.dumps(said), encoding="utf-8")


def _with_frequencies(tensors: Tensors) -> Tensors:
    return tensors | {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(16) for layer in range(4)}


def _bias_in_bf16(tensors: Tensors) -> Tensors:
    return {key: tensor.bfloat16() for key, tensor in tensors.items()}


def _named(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + key: tensor for key, tensor in tensors.items()}


def _with_pictures(tensors: Tensors) -> Tensors:
    return _named("language_model.")(tensors) | {"vision_tower.patch.weight": torch.ones(2)}


BROUGHT: dict[str, Written] = {
    "sound": _folder(MODEL),
    "odd-vocabulary": _folder(replace(WITHOUT_MTP, vocab_size=257)),
    "mtp-beside": _mtp_beside,
    "mtp-missing": _folder(WITHOUT_MTP, num_nextn_predict_layers=1),
    "mtp-unnamed": _folder(MODEL, num_nextn_predict_layers=0),
    "tied-head": _folder(TIED, _with_head(0.0)),
    "other-head": _folder(TIED, _with_head(1.0)),
    "no-head": _folder(WITHOUT_MTP, _without("lm_head.weight")),
    "int4": _folder(WITHOUT_MTP, lambda tensors: packed(tensors)[0], **INT4),
    "fp8": _folder(WITHOUT_MTP, folders.quantised, **FP8),
    "e8m0-scales": _folder(WITHOUT_MTP, _scales(torch.float8_e8m0fnu), **FP8),
    "bf16-scales": _folder(WITHOUT_MTP, _scales(torch.bfloat16), **FP8),
    "fp8-in-name-only": _folder(WITHOUT_MTP, **FP8),
    "fused-experts": _folder(WITHOUT_MTP, fused),
    "module": _folder(WITHOUT_MTP, _named("module.")),
    "pictures": _folder(WITHOUT_MTP, _with_pictures),
    "bin": _bins,
    "no-index": _without_index,
    "other-index": _index_of_another,
    "inv-freq": _folder(WITHOUT_MTP, _with_frequencies),
    "bf16-bias": _folder(WITHOUT_MTP, _bias_in_bf16),
}


FAMILIES = sorted(CONFIGS)


def of_family(name: str, place: Path) -> None:
    """Weights as transformers' own class of the family names them, and config.json as it is published."""
    found = described(CONFIGS[name], "here")
    parts = Parts(found.family)
    torch.manual_seed(5)
    model = parts.of("modeling", "ForCausalLM")(parts.config(found.config)).bfloat16()
    with torch.no_grad():
        for key, tensor in model.state_dict(keep_vars=True).items():
            tensor.copy_(torch.randn(tensor.shape) * 0.3 + (1.0 if "norm" in key else 0.0))
    model.save_pretrained(place)
    prefix = "language_model." if found.family.nested else ""
    (weights,) = place.glob("*.safetensors")
    save_file({f"{prefix}{key}": tensor for key, tensor in load_file(weights).items()}, weights)
    (place / "config.json").write_text(json.dumps(CONFIGS[name]), encoding="utf-8")


def write(name: str, place: Path) -> None:
    """The folder of that name."""
    if name in CONFIGS:
        of_family(name, place)
    else:
        BROUGHT[name](place)


if __name__ == "__main__":
    _, named, out = sys.argv
    write(named, Path(out))
