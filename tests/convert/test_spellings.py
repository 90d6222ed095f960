"""The same tensors under other names: what wrapped models, models with pictures and transformers 5 write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.convert import folders
from tests.convert.folders import FP8, MODEL, TIED, WITHOUT_MTP, Tensors
from validation.candidate.checkpoint.keys import of_training, unwrapped
from validation.case.errors import UsageError
from validation.cli import main
from validation.convert.huggingface import HuggingFace
from validation.inspection.command import answer
from validation.reference.checkpoint import Checkpoint, verify


def fused(tensors: Tensors) -> Tensors:
    """A layer's experts in two tensors."""
    found = {key: tensor for key, tensor in tensors.items() if ".mlp.experts." not in key}
    experts = range(WITHOUT_MTP.n_routed_experts)
    for layer in WITHOUT_MTP.moe_layers:
        prefix = f"model.layers.{layer}.mlp.experts."
        gate, up, down = (
            torch.stack([tensors[f"{prefix}{expert}.{name}_proj.weight"] for expert in experts])
            for name in ("gate", "up", "down")
        )
        found |= {f"{prefix}gate_up_proj": torch.cat([gate, up], 1), f"{prefix}down_proj": down}
    return found


def test_they_are_read_and_converted_as_the_usual_names_are(tmp_path: Path) -> None:
    """All at once: `module.`, `language_model.`, fused experts, and a vision tower, which is set aside and counted."""
    plain = folders.weights(WITHOUT_MTP)
    spelled = {f"module.language_model.{key}": tensor for key, tensor in fused(plain).items()}
    spelled["module.vision_tower.patch.weight"] = torch.ones(2)
    folder = folders.write(tmp_path / "spelled", WITHOUT_MTP, spelled, num_nextn_predict_layers=0)
    usual = folders.write(tmp_path / "usual", WITHOUT_MTP, plain, num_nextn_predict_layers=0)
    with Checkpoint.open(folder) as one, Checkpoint.open(usual) as other:
        assert [name for name in other.parameters if not torch.equal(one.read(name), other.read(name))] == []
        assert (one.unused(), one.set_aside) == ([], {"vision tower": 1})
    assert main(["convert", "--hf-model-path", str(folder), "--save", str(tmp_path / "core"), "--jobs", "1"]) == 0
    assert main(["convert", "--to-hf", "--load", str(tmp_path / "core"), "--save", str(tmp_path / "back"), "--jobs", "1"]) == 0
    assert folders.same(folders.read(tmp_path / "back"), plain)


def stacked(tensors: Tensors, end: str) -> Tensors:
    """Each matrix of a layer's experts in a tensor of its own."""
    found = fused(tensors)
    for key in [key for key in found if key.endswith("gate_up_proj")]:
        prefix = key.removesuffix("gate_up_proj")
        gate, up = found.pop(key).chunk(2, dim=1)
        found |= {f"{prefix}gate_proj{end}": gate.contiguous(), f"{prefix}up_proj{end}": up.contiguous()}
        found[f"{prefix}down_proj{end}"] = found.pop(f"{prefix}down_proj")
    return found


WAYS: dict[str, Callable[[Tensors], Tensors]] = {
    "matrices": lambda plain: stacked(plain, ""),
    "matrices and .weight": lambda plain: stacked(plain, ".weight"),
    "fused and .weight": lambda plain: {
        f"{key}.weight" if key.endswith(("gate_up_proj", "experts.down_proj")) else key: tensor
        for key, tensor in fused(plain).items()
    },
    "wrapped twice": lambda plain: {f"module._orig_mod.{key}": tensor for key, tensor in plain.items()},
    "model twice": lambda plain: {f"model.{key}": tensor for key, tensor in plain.items()},
    "saved without the head": lambda plain: {key.removeprefix("model."): tensor for key, tensor in plain.items()},
}


@pytest.mark.parametrize("way", WAYS)
def test_other_spellings_hold_the_same_tensors(way: str, tmp_path: Path) -> None:
    plain = folders.weights(WITHOUT_MTP)
    folder = folders.write(tmp_path / "spelled", WITHOUT_MTP, WAYS[way](plain), num_nextn_predict_layers=0)
    usual = folders.write(tmp_path / "usual", WITHOUT_MTP, plain, num_nextn_predict_layers=0)
    with Checkpoint.open(folder) as one, Checkpoint.open(usual) as other:
        assert [name for name in other.parameters if not torch.equal(one.read(name), other.read(name))] == []
    assert "tensors are missing" not in "".join(text for _, text in answer(folder))


def test_experts_of_another_shape_are_refused(tmp_path: Path) -> None:
    """Transformers holds rows before columns; other programs transpose."""
    turned = {
        key: t.transpose(1, 2).contiguous() if t.dim() == 3 else t for key, t in fused(folders.weights(WITHOUT_MTP)).items()
    }
    with pytest.raises(UsageError, match=r"down_proj.weight has shape \(32, 64\) and config.json needs \(64, 32\)"):
        Checkpoint.open(folders.write(tmp_path / "hf", WITHOUT_MTP, turned, num_nextn_predict_layers=0))


def test_prefixes_of_megatron_s_names_are_left_out() -> None:
    """Of wrapped models and FSDP; no other name of a checkpoint changes."""
    assert unwrapped("model.module._orig_mod.decoder.final_layernorm.weight") == "decoder.final_layernorm.weight"
    assert unwrapped("decoder.layers.0.mlp.module.weight") == "decoder.layers.0.mlp.module.weight"


def test_a_name_with_its_prefix_and_without_is_refused(tmp_path: Path) -> None:
    plain = folders.weights(WITHOUT_MTP)
    folder = folders.write(tmp_path / "hf", WITHOUT_MTP, plain | {"module.model.norm.weight": torch.ones(64)}, shards=1)
    with pytest.raises(UsageError, match=r"module.model.norm.weight and model.norm.weight are both in model.safetensors"):
        Checkpoint.open(folder)


def test_a_file_beside_the_index_is_read(tmp_path: Path) -> None:
    """MTP layers are published so; a file of other tensors' copies is left out."""
    whole = folders.weights(MODEL)
    mtp = {key: tensor for key, tensor in whole.items() if key.startswith("model.layers.4.")}
    main_model = {key: tensor for key, tensor in whole.items() if key not in mtp}
    folder = folders.write(tmp_path / "hf", MODEL, main_model)
    save_file(mtp, folder / "mtp.safetensors")
    save_file({"model.norm.weight": torch.ones(64)}, folder / "consolidated.safetensors")
    assert main(["convert", "--hf-model-path", str(folder), "--save", str(tmp_path / "core"), "--jobs", "1"]) == 0
    assert main(["convert", "--to-hf", "--load", str(tmp_path / "core"), "--save", str(tmp_path / "back"), "--jobs", "1"]) == 0
    assert folders.same(folders.read(tmp_path / "back"), whole)


def test_two_files_of_one_model_are_told_apart_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Copies are left out with a line; the single file that transformers takes instead of the index is not passed over."""
    plain = folders.weights(WITHOUT_MTP)
    folder = folders.write(tmp_path / "hf", WITHOUT_MTP, plain, num_nextn_predict_layers=0)
    save_file({"model.norm.weight": torch.ones(64)}, folder / "consolidated.safetensors")
    assert main(["convert", "--hf-model-path", str(folder), "--save", str(tmp_path / "core"), "--jobs", "1"]) == 0
    assert "consolidated.safetensors holds what the model's files hold: it is left out" in capsys.readouterr().out
    both = {"model.norm.weight": torch.ones(64), "model.more": torch.ones(2)}
    for name, tensors, says in (
        ("model.safetensors", plain, "model.safetensors and the files of model.safetensors.index.json hold the same tensors"),
        ("extra.safetensors", both, r"holds 1 tensor that the model's files hold, such as model.norm.weight, and 1 that they"),
    ):
        save_file(tensors, folder / name)
        with pytest.raises(UsageError, match=says):
            Checkpoint.open(folder)
        with pytest.raises(UsageError, match=says):
            HuggingFace.open(folder)
        assert [text for what, text in answer(folder) if what == "works"] == []
        (folder / name).unlink()


def test_mtp_layers_are_found_beside_a_single_file(tmp_path: Path) -> None:
    """There is no index that could name them."""
    whole = folders.weights(MODEL)
    mtp = {key: tensor for key, tensor in whole.items() if key.startswith("model.layers.4.")}
    folder = folders.write(tmp_path / "hf", MODEL, {key: whole[key] for key in whole if key not in mtp}, shards=1)
    save_file(mtp, folder / "mtp.safetensors")
    with Checkpoint.open(folder, MODEL) as found:
        assert found.unused() == []
    assert "odd" not in [what for what, text in answer(folder) if "MTP layer" in text]


def test_an_index_that_disagrees_with_its_files_is_refused(tmp_path: Path) -> None:
    """By run, convert and inspect."""
    folder = folders.write(tmp_path / "hf", WITHOUT_MTP, folders.weights(WITHOUT_MTP), num_nextn_predict_layers=0)
    index = folder / "model.safetensors.index.json"
    said = json.loads(index.read_text(encoding="utf-8"))
    one, two = sorted(set(said["weight_map"].values()))
    said["weight_map"]["model.norm.weight"] = {one: two, two: one}[said["weight_map"]["model.norm.weight"]]
    index.write_text(json.dumps(said), encoding="utf-8")
    for read in (Checkpoint.open, HuggingFace.open):
        with pytest.raises(UsageError, match=r"says that model.norm.weight is in .*, which does not hold it \(1 such\)"):
            read(folder)
    told = [text for what, text in answer(folder) if what in ("odd", "works")]
    assert told == ["the index has model.norm.weight in a file which does not hold it; download the folder again"]


def test_mtp_layers_that_only_config_json_has_are_left_out_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders.write(tmp_path / "hf", MODEL, folders.weights(WITHOUT_MTP))
    assert main(["convert", "--hf-model-path", str(folder), "--save", str(tmp_path / "core"), "--jobs", "1"]) == 0
    assert "config.json names MTP layers, and the files hold none: hf is read without" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"config.json names an MTP layer that the files do not have; without \+mtp"):
        Checkpoint.open(folder, MODEL)


def test_a_tied_head_is_the_embedding_or_refused(tmp_path: Path) -> None:
    """The embedding again is set aside; another is refused, with what works, by run and by convert."""
    tied = folders.weights(TIED)
    head = tied["model.embed_tokens.weight"].clone()
    with Checkpoint.open(folders.write(tmp_path / "same", TIED, tied | {"lm_head.weight": head})) as same:
        verify(same)
        assert (same.unused(), same.set_aside) == ([], {"the head, which is the embedding again": 1})
    other = folders.write(tmp_path / "other", TIED, tied | {"lm_head.weight": head + 1})
    said = "lm_head.weight is not model.embed_tokens.weight again.* and config.json says tie_word_embeddings; with false"
    with Checkpoint.open(other) as found, pytest.raises(UsageError, match=said):
        verify(found)
    with pytest.raises(UsageError, match=said):
        HuggingFace.open(other)


def test_a_head_that_is_missing_may_be_the_embedding(tmp_path: Path) -> None:
    tensors = {key: tensor for key, tensor in folders.weights(WITHOUT_MTP).items() if key != "lm_head.weight"}
    with pytest.raises(UsageError, match=r"if the head is the embedding, tie_word_embeddings in config.json must be true"):
        Checkpoint.open(folders.write(tmp_path / "hf", WITHOUT_MTP, tensors))


def test_a_padded_vocabulary_comes_back_from_legacy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Megatron-LM pads the vocabulary to a multiple; its ranks share the padded rows alike. The model may be a wrapped one."""
    plain = folders.weights(WITHOUT_MTP)
    folder = folders.write(tmp_path / "hf", WITHOUT_MTP, plain)
    words = ["--format", "legacy", "--layout", "tp2", "--implementation", "local", "--jobs", "1"]
    assert main(["convert", "--hf-model-path", str(folder), "--save", str(tmp_path / "core"), *words]) == 0
    padded = 160  # of 128 tokens: the second rank has 48 of them and 32 rows of padding
    for rank in range(2):
        (path,) = tmp_path.glob(f"core/**/mp_rank_{rank:02d}/*.pt")
        state = torch.load(path, weights_only=False)
        for name, key in (
            ("embedding.word_embeddings.weight", "model.embed_tokens.weight"),
            ("output_layer.weight", "lm_head.weight"),
        ):
            rows = torch.cat([plain[key], torch.full((padded - 128, 64), 7.0, dtype=torch.bfloat16)])
            state["model"][name] = rows[rank * padded // 2 : (rank + 1) * padded // 2].clone()
        state["model"] = {f"module.{name}": tensor for name, tensor in state["model"].items()}
        moments = {number: {"exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)} for number in range(3)}
        state["optimizer"] = [{"state": moments, "param_groups": [{"params": [0, 1, 2]}]}]
        state["optimizer"].append(state["optimizer"])  # which is in itself
        torch.save(state, path)
        (path.parent / "distrib_optim.pt").write_bytes(b"1")
    (tmp_path / "core" / "plumbline.json").unlink()  # Megatron-LM writes none
    capsys.readouterr()
    assert main(["convert", "--to-hf", "--load", str(tmp_path / "core"), "--save", str(tmp_path / "back"), "--jobs", "1"]) == 0
    told = capsys.readouterr().out
    assert "output_layer.weight has 160 rows and config.json 128 tokens: 32 rows of padding are left out" in told
    assert "left aside: 12 of optimizer and random state" in told
    assert "distrib_optim.pt beside model_optim_rng.pt is left aside" in told
    assert folders.same(folders.read(tmp_path / "back"), plain)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e8m0fnu])
def test_scales_may_be_rounded_or_powers_of_two(kind: torch.dtype, tmp_path: Path) -> None:
    """The formula is the same, with the scale as it is stored."""
    quantised = folders.quantised(folders.weights(WITHOUT_MTP))
    stored = {
        key: tensor.log2().round().exp2().to(kind) if key.endswith("_scale_inv") else tensor
        for key, tensor in quantised.items()
    }
    folder = folders.write(tmp_path / "hf", WITHOUT_MTP, stored, **FP8)
    assert main(["convert", "--to-hf", "--load", str(folder), "--save", str(tmp_path / "back"), "--jobs", "1"]) == 0
    found = folders.read(tmp_path / "back")
    key = "model.layers.0.mlp.down_proj.weight"
    scale = stored[f"{key}_scale_inv"].float()
    assert scale.shape == (1, 1)
    assert torch.equal(found[key], (stored[key].float() * scale).bfloat16())


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("optimizer.state.exp_avg.decoder.layers.0.mlp.linear_fc1.weight", True),
        ("chained_0.optimizer.distributed.dp_group_idx_0.gbuf_idx_0.dtype_(torch.bfloat16, torch.float32)", True),
        ("chained_12.optimizer.state.fp32_param.output_layer.weight", True),
        ("rng_state/shard_0_1", True),
        ("rerun_state_machine_state", True),
        ("common_state/shard_0_1", True),
        ("opt_param_scheduler", True),
        ("decoder.layers.0.mlp.linear_fc1.weight", False),
        ("chained_0.decoder.layers.0.mlp.linear_fc1.weight", False),
        ("myoptimizer.weight", False),
    ],
)
def test_what_training_saves_beside_the_model_is_left_aside(key: str, wanted: bool) -> None:
    """One optimizer or a chain of them, whatever they shard their states by."""
    assert of_training(key) is wanted
