"""There and back again: every tensor of a folder, bit for bit, through both formats, in every way it can be cut."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.convert import folders
from tests.convert.folders import MODEL, MOONLIGHT, TIED, WITHOUT_MTP
from validation.case.model import Model
from validation.cli import main

FOLDERS: dict[str, tuple[Model, dict[str, Any]]] = {
    "DeepSeek-V3": (MODEL, {}),
    "Moonlight": (MOONLIGHT, {}),
    "DeepSeek-V2-Lite": (replace(MOONLIGHT, topk_method="greedy"), {"model_type": "deepseek_v2"}),
    "tied": (TIED, {}),
}
LAYOUTS = ("single", "tp2pp2", "tp2ep2", "pp2vpp2", "tp2etp1", "pp2+1-3")


def convert(origin: Path, to: Path, *words: str) -> Path:
    """`python -m validation convert`, in this process."""
    assert main(["convert", "--hf-model-path", str(origin), "--save", str(to), "--jobs", "1", *words]) == 0
    return to


def back(origin: Path, to: Path, *words: str) -> Path:
    """The same with --to-hf."""
    assert main(["convert", "--to-hf", "--load", str(origin), "--save", str(to), "--jobs", "1", *words]) == 0
    return to


def published(name: str, folder: Path) -> Path:
    model, more = FOLDERS[name]
    return folders.write(folder, model, folders.weights(model, bias=not more), **more)


@pytest.mark.parametrize("format_", ["torch_dist", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back(layout: str, format_: str, tmp_path: Path) -> None:
    """DeepSeek-V3's own shape, with its MTP layer and that layer's copies of embedding and head."""
    origin = published("DeepSeek-V3", tmp_path / "hf")
    there = convert(origin, tmp_path / "mcore", "--layout", layout, "--format", format_)
    assert folders.same(folders.read(back(there, tmp_path / "back")), folders.read(origin))


@pytest.mark.parametrize("release", ["0.16.1", "0.19.2"])
def test_there_and_back_by_the_names_of_each_release(release: str, tmp_path: Path) -> None:
    """A rank's file tells by its names for which release it was written, whatever is installed here."""
    origin = published("DeepSeek-V3", tmp_path / "hf")
    there = convert(origin, tmp_path / "mcore", "--layout", "tp2", "--format", "legacy", "--megatron-core", release)
    assert folders.same(folders.read(back(there, tmp_path / "back")), folders.read(origin))


def test_a_release_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", "--hf-model-path", str(published("tied", tmp_path / "hf")), "--save", str(tmp_path / "mcore")]
    assert main([*words, "--format", "legacy", "--megatron-core", "soon"]) == 2
    assert "soon is no version of megatron-core; give one such as 0.16.1 or 0.19.2" in capsys.readouterr().err


@pytest.mark.parametrize("format_", ["torch_dist", "legacy"])
@pytest.mark.parametrize(
    ("name", "implementation"),
    [*((name, "te") for name in FOLDERS), ("DeepSeek-V3", "local"), ("DeepSeek-V3", "local-stock")],
)
def test_every_folder_and_spelling(name: str, format_: str, implementation: str, tmp_path: Path) -> None:
    """Without query latents, without an expert bias, with tied embeddings; as each implementation names its tensors."""
    origin = published(name, tmp_path / "hf")
    words = ("--layout", "tp2pp2", "--format", format_, "--implementation", implementation)
    there = convert(origin, tmp_path / "mcore", *words)
    assert folders.same(folders.read(back(there, tmp_path / "back")), folders.read(origin))


def test_what_lies_beside_the_weights_comes_along(tmp_path: Path) -> None:
    """config.json and the tokenizer are those of the folder, on the way there and back."""
    origin = published("DeepSeek-V3", tmp_path / "hf")
    home = back(convert(origin, tmp_path / "mcore"), tmp_path / "back")
    assert json.loads((home / "config.json").read_text()) == json.loads((origin / "config.json").read_text())
    assert (home / "tokenizer.json").read_text() == "{}"


def test_both_counts_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every input tensor used, every output tensor filled."""
    origin = published("DeepSeek-V3", tmp_path / "hf")
    count = len(folders.read(origin))
    convert(origin, tmp_path / "mcore")
    back(tmp_path / "mcore", tmp_path / "back")
    said = capsys.readouterr().out
    assert f"used {count} of {count} tensors ({count - 2} weights, 2 copies of embedding and head" in said
    assert f"filled {count} of {count} tensors in 1 file" in said


def test_a_cast_spares_the_expert_bias(tmp_path: Path) -> None:
    """To bf16 and back a fp32 folder is rounded, its expert bias is not."""
    weights = {key: tensor.float() + 1e-4 for key, tensor in folders.weights(WITHOUT_MTP).items()}
    origin = folders.write(tmp_path / "hf", WITHOUT_MTP, weights)
    home = back(convert(origin, tmp_path / "mcore", "--dtype", "bf16"), tmp_path / "back")
    expected = {key: value if key.endswith("_bias") else value.bfloat16() for key, value in weights.items()}
    assert folders.same(folders.read(home), expected)
    assert json.loads((home / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_a_folder_of_several_files_has_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key is in the file that the index says, and the library reads them all."""
    monkeypatch.setattr("validation.convert.to_huggingface._LEAST", 100_000)
    origin = published("DeepSeek-V3", tmp_path / "hf")
    home = back(convert(origin, tmp_path / "mcore"), tmp_path / "back")
    index = json.loads((home / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 5
    assert index.keys() == folders.read(home).keys()
    assert folders.same(folders.read(home), folders.read(origin))


def test_the_way_back_needs_no_manifest(tmp_path: Path) -> None:
    """A checkpoint of training has none, nor a config.json: both are then the folder's that is named."""
    origin = published("DeepSeek-V3", tmp_path / "hf")
    there = convert(origin, tmp_path / "mcore", "--format", "legacy", "--layout", "tp2")
    for name in ("plumbline.json", "config.json", "tokenizer.json"):
        (there / name).unlink()
    home = back(there, tmp_path / "back", "--hf-model-path", str(origin))
    assert folders.same(folders.read(home), folders.read(origin))


def test_several_processes_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes a part, and in which order, the bytes are the same."""
    monkeypatch.setattr("validation.convert.to_torch_dist._LEAST", 100_000)
    origin = published("DeepSeek-V3", tmp_path / "hf")
    one = convert(origin, tmp_path / "one")
    two = convert(origin, tmp_path / "two", "--jobs", "3")
    names = sorted(path.name for path in (one / "release").glob("*.distcp"))
    assert len(names) > 5
    assert all((one / "release" / name).read_bytes() == (two / "release" / name).read_bytes() for name in names)


def test_a_tensor_larger_than_a_block_is_written_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows at a time, so that no tensor need fit in memory."""
    for size, bytes_ in (("WRITE", 300), ("DISK", 2000)):
        monkeypatch.setattr(f"validation.convert.sink.{size}_BYTES", bytes_)
    origin = published("DeepSeek-V3", tmp_path / "hf")
    for format_, block in (("torch_dist", 700), ("legacy", 4096)):
        monkeypatch.setattr("validation.convert.parts.BLOCK_BYTES", block)  # 4096 may go to the disk directly
        there = convert(origin, tmp_path / format_, "--format", format_, "--layout", "tp2")
        assert folders.same(folders.read(back(there, tmp_path / f"back-{format_}")), folders.read(origin))


def test_the_files_are_torch_s_own(tmp_path: Path) -> None:
    """What stands in a legacy file is what torch.load reads, without a word of ours."""
    origin = published("Moonlight", tmp_path / "hf")
    there = convert(origin, tmp_path / "mcore", "--format", "legacy", "--implementation", "local")
    state = torch.load(there / "release/mp_rank_00/model_optim_rng.pt", weights_only=False)
    weights = folders.read(origin)
    assert state["checkpoint_version"] == 3.0
    assert state["args"].tensor_model_parallel_size == 1
    assert torch.equal(state["model"]["decoder.final_layernorm.weight"], weights["model.norm.weight"])
    gate_up = state["model"]["decoder.layers.0.mlp.linear_fc1.weight"]
    names = [f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up")]
    assert torch.equal(gate_up, torch.cat([weights[name] for name in names]))


@pytest.mark.parametrize("form", ["torch_dist", "legacy"])
def test_a_vocabulary_is_padded_with_zeros_and_comes_back(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """129 tokens in two parts of 72 rows: the second has 57 of them, and 15 rows of zeros."""
    model = replace(TIED, vocab_size=129, num_hidden_layers=2, tie_word_embeddings=False)
    origin = folders.write(tmp_path / "hf", model, folders.weights(model))
    there = convert(origin, tmp_path / form, "--format", form, "--layout", "tp2+vocab8", "--implementation", "local")
    assert "embedding and head get 144 rows for 129 tokens: 15 rows of zeros are padding" in capsys.readouterr().out
    if form == "legacy":
        states = [torch.load(path, weights_only=False) for path in sorted(there.glob("**/mp_rank_*/*.pt"))]
        head = [state["model"]["output_layer.weight"] for state in states]
        assert [len(rows) for rows in head] == [72, 72]
        assert torch.equal(torch.cat(head)[:129], folders.weights(model)["lm_head.weight"])
        assert not head[1][57:].any()
        assert states[0]["args"].padded_vocab_size == 144
    assert folders.same(folders.read(back(there, tmp_path / "back")), folders.weights(model))
    assert "144 rows and config.json 129 tokens: 15 rows of padding are left out" in capsys.readouterr().out
