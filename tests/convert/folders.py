"""Small folders in the format in which DeepSeek-V3, Moonlight and DeepSeek-V2-Lite are published."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from validation.case.model import Model
from validation.case.parameters import parameters
from validation.case.preset import TINY

MODEL = replace(TINY.model, num_nextn_predict_layers=1)
WITHOUT_MTP = replace(MODEL, num_nextn_predict_layers=0)
MOONLIGHT = replace(MODEL, q_lora_rank=None, num_nextn_predict_layers=0, rms_norm_eps=1e-5)
TIED = replace(WITHOUT_MTP, tie_word_embeddings=True)
LARGE_BLOCKS = replace(
    MODEL, hidden_size=160, intermediate_size=192, moe_intermediate_size=96, n_routed_experts=4, n_group=1, topk_group=1
)
"""Matrices of which a block of 128 × 128 is a part, and not one that divides them."""

Tensors = dict[str, torch.Tensor]


def config(model: Model, **more: Any) -> dict[str, Any]:
    """A config.json as transformers 4 and DeepSeek write it."""
    numbers = model.as_dict()
    words = ("original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    rope = {word: numbers.pop(word) for word in words}
    rope |= {"type": numbers.pop("rope_type"), "factor": numbers.pop("rope_factor")}
    heads = {"num_key_value_heads": model.num_attention_heads}
    return {"model_type": "deepseek_v3", "torch_dtype": "bfloat16", **numbers, **heads, "rope_scaling": rope, **more}


def weights(model: Model, seed: int = 0, bias: bool = True) -> Tensors:
    """A tensor for each key: bf16, the expert bias in fp32, the MTP layer with its copies of embedding and head."""
    generator = torch.Generator().manual_seed(seed)
    found: Tensors = {}
    for parameter in parameters(model).values():
        keys = parameter.keys()
        shape = parameter.shape[1:] if len(keys) > 1 else parameter.shape
        kind = torch.bfloat16 if parameter.trained else torch.float32
        if bias or parameter.trained:
            found |= {key: torch.randn(shape, generator=generator).to(kind) for key in keys}
    head = "model.embed_tokens.weight" if model.tie_word_embeddings else "lm_head.weight"
    for layer in model.mtp_layers:
        found[f"model.layers.{layer}.embed_tokens.weight"] = found["model.embed_tokens.weight"].clone()
        found[f"model.layers.{layer}.shared_head.head.weight"] = found[head].clone()
    return found


def quantised(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The projections in e4m3 with a scale for each block of 128 × 128, as DeepSeek-V3 is published."""
    found: Tensors = {}
    for key, tensor in tensors.items():
        if (not key.endswith("_proj.weight") and not key.endswith("kv_a_proj_with_mqa.weight")) or "eh_proj" in key:
            found[key] = tensor
            continue
        rows, columns = (math.ceil(size / 128) for size in tensor.shape)
        scales = torch.empty(rows, columns)
        stored = torch.empty_like(tensor, dtype=torch.float8_e4m3fn)
        for row in range(rows):
            for column in range(columns):
                block = (slice(128 * row, 128 * row + 128), slice(128 * column, 128 * column + 128))
                scales[row, column] = tensor[block].float().abs().max() / 448
                stored[block] = (tensor[block].float() / scales[row, column]).to(torch.float8_e4m3fn)
        found[key], found[f"{key}_scale_inv"] = stored, scales
    return found


FP8: dict[str, Any] = {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}}


def write(folder: Path, model: Model, tensors: Mapping[str, torch.Tensor], shards: int = 2, **more: Any) -> Path:
    """The folder, in so many shards with their index, with a tokenizer beside them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(model, **more)))
    (folder / "tokenizer.json").write_text("{}")
    names = [f"model-{1 + index:05d}-of-{shards:05d}.safetensors" for index in range(shards)]
    held = {key: names[number % shards] for number, key in enumerate(tensors)} if shards > 1 else {}
    for name in names if shards > 1 else ():
        save_file({key: tensors[key] for key in tensors if held[key] == name}, folder / name)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": held}))
    else:
        save_file(dict(tensors), folder / "model.safetensors")
    return folder


def read(folder: Path) -> Tensors:
    """Every tensor of a folder, as the library reads it."""
    found: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            found |= {key: file.get_tensor(key) for key in file.offset_keys()}
    return found


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """The same keys, dtypes and bytes."""
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key].view(torch.uint8), other[key].view(torch.uint8))
        for key in one
    )
