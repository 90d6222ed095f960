"""Some layers of a folder are a model of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.convert import folders
from tests.convert.folders import MODEL
from tests.convert.test_round_trip import back, convert
from tests.reference.published_families import CONFIGS
from validation.case.folder import model_from_folder
from validation.case.published import from_hf_config
from validation.cli import main
from validation.convert.describe import describe


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    return folders.write(tmp_path / "hf", MODEL, folders.weights(MODEL))


def renumbered(weights: folders.Tensors, layers: dict[int, int]) -> folders.Tensors:
    """The tensors of these layers under their new numbers, with those of no layer."""
    found: folders.Tensors = {}
    for key, tensor in weights.items():
        parts = key.split(".")
        if parts[1] != "layers":
            found[key] = tensor
        elif int(parts[2]) in layers:
            found[".".join([*parts[:2], str(layers[int(parts[2])]), *parts[3:]])] = tensor
    return found


@pytest.mark.parametrize("format_", ["torch_dist", "legacy"])
def test_layers_are_renumbered_and_the_mtp_layer_follows(format_: str, origin: Path, tmp_path: Path) -> None:
    """Layers 0 and 2 become 0 and 1, and the MTP layer, the folder's 4, becomes 2."""
    there = convert(origin, tmp_path / "mcore", "--layers", "0,2", "--format", format_)
    home = back(there, tmp_path / "back")
    expected = renumbered(folders.read(origin), {0: 0, 2: 1, 4: 2})
    assert folders.same(folders.read(home), expected)
    config = json.loads((home / "config.json").read_text())
    assert [config[name] for name in ("num_hidden_layers", "first_k_dense_replace", "num_nextn_predict_layers")] == [2, 1, 1]


def test_it_is_a_model_that_transformers_loads(origin: Path, tmp_path: Path) -> None:
    """Nothing missing, and but for the MTP layer nothing unknown."""
    from transformers import AutoModelForCausalLM

    home = back(convert(origin, tmp_path / "mcore", "--layers", "0,3", "--no-mtp"), tmp_path / "back")
    model, told = AutoModelForCausalLM.from_pretrained(home, output_loading_info=True, dtype="auto")
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert torch.isfinite(model(torch.arange(8)[None]).logits).all()
    assert model_from_folder(home).num_hidden_layers == 2


def test_what_is_not_chosen_is_counted(origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Left aside for a reason that is told."""
    convert(origin, tmp_path / "mcore", "--layers", "1", "--no-mtp")
    said = capsys.readouterr().out
    assert "layers not chosen" in said
    assert "multi-token prediction layers" in said


def test_a_folder_whose_mtp_layer_was_left_out(tmp_path: Path) -> None:
    """config.json still counts one; the result's does not."""
    weights = {key: tensor for key, tensor in folders.weights(MODEL).items() if ".layers.4." not in key}
    origin = folders.write(tmp_path / "hf", MODEL, weights)
    home = back(convert(origin, tmp_path / "mcore"), tmp_path / "back")
    assert folders.same(folders.read(home), weights)
    assert json.loads((home / "config.json").read_text())["num_nextn_predict_layers"] == 0


def test_an_mtp_layer_behind_dense_layers(origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Megatron-Core would make it dense."""
    assert main(["convert", "--hf-model-path", str(origin), "--save", str(tmp_path / "out"), "--layers", "0"]) == 2
    assert "give --no-mtp" in capsys.readouterr().err


def test_an_embedding_of_the_mtp_layer_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Megatron-Core has one for both, and one of them would be lost."""
    weights = folders.weights(MODEL)
    weights["model.layers.4.embed_tokens.weight"][17, 3] += 1
    origin = folders.write(tmp_path / "hf", MODEL, weights)
    words = ["convert", "--hf-model-path", str(origin), "--save", str(tmp_path / "out"), "--jobs", "1"]
    assert main(words) == 2
    assert "model.layers.4.embed_tokens.weight is not model.embed_tokens.weight again" in capsys.readouterr().err
    assert main([*words, "--no-mtp"]) == 0


@pytest.mark.parametrize("given", [{}, {"mlp_layer_types": ["dense", "sparse", "sparse"]}])
@pytest.mark.parametrize(("layers", "dense"), [((0, 1), (0,)), ((1, 2), ()), ((0, 1, 2), (0,))])
def test_of_a_family_whose_layers_are_listed_the_list_is_cut(
    given: dict[str, Any], layers: tuple[int, ...], dense: tuple[int, ...], tmp_path: Path
) -> None:
    """GLM's: transformers reads the list alone, and has one layer without experts if there is none."""
    (tmp_path / "config.json").write_text(json.dumps({**CONFIGS["glm4_moe_lite"], **given}), encoding="utf-8")
    found = from_hf_config(describe(tmp_path, layers).config, "what is written")
    assert (found.num_hidden_layers, found.dense_layers) == (len(layers), dense)
