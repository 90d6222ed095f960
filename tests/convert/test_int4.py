"""Weights of four bits, packed as compressed-tensors does: read and dequantised element by element by the same formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.convert import folders
from tests.convert.folders import Tensors
from validation.case.errors import UsageError
from validation.cli import main
from validation.convert.huggingface import HuggingFace
from validation.convert.int4 import dequantised, unpacked
from validation.reference.checkpoint import Checkpoint

GROUP = 16
CONFIG: dict[str, Any] = {
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "symmetric": True, "group_size": GROUP}}},
    }
}
MODEL = folders.WITHOUT_MTP


def packed(elements: torch.Tensor) -> torch.Tensor:
    """Eight elements from -8 to 7 in each word, one after the other."""
    words = []
    for row in elements.tolist():
        for start in range(0, len(row), 8):
            word = sum((value + 8) << (4 * place) for place, value in enumerate(row[start : start + 8]))
            words.append(word - (1 << 32) if word >= 1 << 31 else word)
    return torch.tensor(words, dtype=torch.int32).view(elements.shape[0], -1)


def quantised(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """The routed experts packed, as Kimi-K2.5 is published, and what they are in bf16."""
    generator = torch.Generator().manual_seed(3)
    stored, plain = dict(tensors), dict(tensors)
    for key in [key for key in tensors if ".mlp.experts." in key]:
        rows, columns = tensors[key].shape
        elements = torch.randint(-8, 8, (rows, columns), generator=generator)
        scales = (torch.rand(rows, columns // GROUP, generator=generator) + 0.5).bfloat16()
        del stored[key]
        stored |= {f"{key}_packed": packed(elements), f"{key}_scale": scales, f"{key}_shape": torch.tensor([rows, columns])}
        each = torch.stack([scales[:, column // GROUP] for column in range(columns)], 1)
        plain[key] = (elements.float() * each.float()).bfloat16()
    return stored, plain


def test_elements_lie_from_the_lowest_bits_on() -> None:
    """The words that compressed-tensors 0.20.1 makes of these elements (pack_to_int32)."""
    elements = torch.tensor([[-8, 7, 0, 1, -1, 2, -2, 3], [7] * 8])
    assert packed(elements).tolist() == [[-1230530320], [-1]]
    assert torch.equal(unpacked(packed(elements)), elements.int())


@pytest.mark.parametrize("part", [(0, 32), (5, 20), (16, 32), (15, 17), (31, 32)])
def test_a_part_is_a_part_of_the_whole(part: tuple[int, int]) -> None:
    elements = torch.arange(64).view(2, 32) % 16 - 8
    scales = torch.tensor([[0.5, 2.0], [4.0, 8.0]], dtype=torch.bfloat16)
    whole = elements.bfloat16() * scales.repeat_interleave(GROUP, 1)
    first, stop = part
    words = packed(elements)[:, first // 8 : -(-stop // 8)]
    mine = scales[:, first // GROUP : -(-stop // GROUP)]
    assert torch.equal(dequantised(words, mine, first, stop - first, GROUP), whole[:, first:stop])


def test_a_folder_with_packed_experts_is_converted(tmp_path: Path) -> None:
    """To Megatron and straight to a folder in bf16; `run` says so."""
    stored, plain = quantised(folders.weights(MODEL))
    folder = folders.write(tmp_path / "hf", MODEL, stored, **CONFIG)
    assert main(["convert", "--hf-model-path", str(folder), "--save", str(tmp_path / "core"), "--jobs", "1"]) == 0
    assert main(["convert", "--to-hf", "--load", str(tmp_path / "core"), "--save", str(tmp_path / "back"), "--jobs", "1"]) == 0
    assert folders.same(folders.read(tmp_path / "back"), plain)
    with pytest.raises(UsageError, match="its weights are packed; `python -m validation convert --to-hf"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda key: {f"{key}_zero_point": torch.zeros(2)}, "is packed with zero points"),
        (lambda key: {f"{key}_g_idx": torch.zeros(2)}, "is packed in another order"),
        (lambda key: {f"{key}_scale": torch.ones(3, 3)}, r"_scale is F32 \(3, 3\), which does not fit \(32, 64\)"),
    ],
)
def test_another_packing_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    stored, _ = quantised(folders.weights(MODEL))
    key = "model.layers.1.mlp.experts.0.gate_proj.weight"
    folder = folders.write(tmp_path / "hf", MODEL, stored | change(key), **CONFIG)
    with pytest.raises(UsageError, match=said):
        HuggingFace.open(folder)


@pytest.mark.parametrize("change", [{"num_bits": 8}, {"symmetric": False}, {"actorder": "group"}, {"type": "float"}])
def test_weights_that_config_json_packs_otherwise_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    """What it says of them is read, too: the words alone would do as 4 bits."""
    how = json.loads(json.dumps(CONFIG))
    how["quantization_config"]["config_groups"]["group_0"]["weights"].update(change)
    folder = folders.write(tmp_path / "hf", MODEL, quantised(folders.weights(MODEL))[0], num_nextn_predict_layers=0, **how)
    with pytest.raises(UsageError, match=r"pack-quantized in symmetric 4 bits, as Kimi-K2\.5 is, can be read"):
        HuggingFace.open(folder)
