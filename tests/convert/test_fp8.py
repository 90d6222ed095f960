"""Weights in fp8 with a scale for each block of 128 × 128, as DeepSeek-V3 is published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.convert import folders
from tests.convert.folders import FP8, LARGE_BLOCKS
from tests.convert.test_round_trip import back, convert
from validation.cli import main
from validation.convert.formats import open_source
from validation.convert.fp8 import dequantised, touched


def one_by_one(stored: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """DeepSeek's formula for each element by itself: float32 times the scale of its block, rounded to bf16."""
    rows, columns = (torch.arange(size) // 128 for size in stored.shape)
    return (stored.float() * scales[rows][:, columns]).to(torch.bfloat16)


def matrix(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    quantised = folders.quantised({"q_proj.weight": torch.randn(rows, columns, generator=generator).bfloat16()})
    return quantised["q_proj.weight"], quantised["q_proj.weight_scale_inv"]


@pytest.mark.parametrize("shape", [(128, 128), (256, 384), (300, 200), (1, 129), (127, 1)])
def test_the_formula(shape: tuple[int, int]) -> None:
    """Whole blocks, and what is left of them at the edges."""
    stored, scales = matrix(*shape)
    assert torch.equal(dequantised(stored, scales, (0, 0), (128, 128)), one_by_one(stored, scales))


@pytest.mark.parametrize(
    "part", [((0, 300), (0, 200)), ((128, 256), (0, 200)), ((5, 131), (100, 129)), ((255, 300), (199, 200))]
)
def test_a_part_is_a_part_of_the_whole(part: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Wherever it begins, each element gets the scale of its own block."""
    stored, scales = matrix(300, 200)
    rows, columns = (slice(*bounds) for bounds in part)
    mine = scales[touched(part[0], 128), touched(part[1], 128)]
    found = dequantised(stored[rows, columns], mine, (part[0][0], part[1][0]), (128, 128))
    assert torch.equal(found, one_by_one(stored, scales)[rows, columns])


@pytest.fixture(scope="module")
def quantised() -> folders.Tensors:
    return folders.quantised(folders.weights(LARGE_BLOCKS))


@pytest.fixture(scope="module")
def expected(quantised: folders.Tensors) -> folders.Tensors:
    """What the folder holds in bf16: the expert bias stays fp32, and there are no scales."""
    return {
        key: one_by_one(tensor, quantised[f"{key}_scale_inv"]) if f"{key}_scale_inv" in quantised else tensor
        for key, tensor in quantised.items()
        if not key.endswith("_scale_inv")
    }


@pytest.mark.parametrize(("format_", "layout"), [("torch_dist", "tp2pp2"), ("legacy", "tp2ep2")])
def test_a_folder_in_fp8(
    format_: str, layout: str, quantised: folders.Tensors, expected: folders.Tensors, tmp_path: Path
) -> None:
    """Every element of every tensor, through a layout that cuts blocks in two."""
    origin = folders.write(tmp_path / "hf", LARGE_BLOCKS, quantised, **FP8)
    home = back(convert(origin, tmp_path / "mcore", "--layout", layout, "--format", format_), tmp_path / "back")
    assert folders.same(folders.read(home), expected)


def test_straight_to_a_folder_in_bf16(quantised: folders.Tensors, expected: folders.Tensors, tmp_path: Path) -> None:
    """Without Megatron between, and config.json says that nothing is quantised."""
    origin = folders.write(tmp_path / "hf", LARGE_BLOCKS, quantised, **FP8)
    home = back(origin, tmp_path / "bf16")
    assert folders.same(folders.read(home), expected)
    config = json.loads((home / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["torch_dtype"] == "bfloat16"


def test_scales_are_used_tensors(quantised: folders.Tensors, tmp_path: Path) -> None:
    """Each is counted, and none is left over."""
    scales = sum(key.endswith("_scale_inv") for key in quantised)
    with open_source(folders.write(tmp_path / "hf", LARGE_BLOCKS, quantised, **FP8)) as source:
        assert f"used {len(quantised)} of {len(quantised)} tensors" in source.inventory().line
        assert f"{scales} block scales" in source.inventory().line


KEY = "model.layers.0.self_attn.o_proj.weight"
WRONG = {
    "no scale": (lambda found: found.pop(f"{KEY}_scale_inv"), f"{KEY} is F8_E4M3 without weight_scale_inv"),
    "a scale for bf16": (lambda found: found.update({KEY: found[KEY].bfloat16()}), f"{KEY} is BF16 with weight_scale_inv"),
    "other blocks": (
        lambda found: found.update({f"{KEY}_scale_inv": torch.ones(3, 1)}),
        f"{KEY}_scale_inv is F32 (3, 1), and (160, 64) in blocks of (128, 128) needs F32 or BF16 or F8_E8M0 (2, 1)",
    ),
    "a scale that is no number": (
        lambda found: found.update({f"{KEY}_scale_inv": torch.full((2, 1), float("nan"))}),
        f"{KEY} holds NaN or infinite values when it is dequantised",
    ),
    "an exponent that is no number": (
        lambda found: found.update({f"{KEY}_scale_inv": torch.full((2, 1), 255, dtype=torch.uint8).view(torch.float8_e8m0fnu)}),
        f"{KEY} holds NaN or infinite values when it is dequantised",
    ),
    "e5m2": (lambda found: found.update({KEY: found[KEY].to(torch.float8_e5m2)}), f"{KEY} is F8_E5M2 with weight_scale_inv"),
}


@pytest.mark.parametrize("name", WRONG)
def test_scales_that_do_not_fit(
    name: str, quantised: folders.Tensors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence names the tensor."""
    change, sentence = WRONG[name]
    found = dict(quantised)
    change(found)
    origin = folders.write(tmp_path / "hf", LARGE_BLOCKS, found, **FP8)
    assert main(["convert", "--hf-model-path", str(origin), "--save", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_quantisation(quantised: folders.Tensors, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the published one is read."""
    origin = folders.write(tmp_path / "hf", LARGE_BLOCKS, quantised, quantization_config={"quant_method": "awq"})
    assert main(["convert", "--hf-model-path", str(origin), "--save", str(tmp_path / "out")]) == 2
    assert "only fp8 in e4m3" in capsys.readouterr().err
