"""HuggingFace weights are read by slice, whole, and nothing wrong with their files goes unsaid."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from validation.case.errors import UsageError
from validation.case.folder import model_from_folder
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.compare import mapped, sliced
from validation.reference.checkpoint import Checkpoint, verify

MODEL = TINY.model
GATE = "model.layers.1.mlp.experts.gate_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"


def config() -> dict[str, Any]:
    """Tiny's config.json, as transformers 5 writes it."""
    numbers = MODEL.as_dict()
    rope = {
        word: numbers.pop(word) for word in ("rope_type", "rope_theta", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    }
    rope |= {"factor": numbers.pop("rope_factor")}
    rope |= {"original_max_position_embeddings": numbers.pop("original_max_position_embeddings")}
    return {"model_type": "deepseek_v3", **numbers, "rope_parameters": rope}


@pytest.fixture(scope="session")
def weights() -> dict[str, torch.Tensor]:
    """A tensor per key of tiny, bf16 but for the expert bias."""
    torch.manual_seed(0)
    found: dict[str, torch.Tensor] = {}
    for parameter in parameters(MODEL).values():
        keys = parameter.keys()
        shape = parameter.shape[1:] if len(keys) > 1 else parameter.shape
        kind = torch.bfloat16 if parameter.trained else torch.float32
        found |= {key: torch.randn(shape).to(kind) for key in keys}
    return found


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    """A checkpoint folder with one file."""
    (tmp_path / "config.json").write_text(json.dumps(config()))
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the tensors of the folder's file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def shards(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Puts two files and an index in place of the folder's one file."""
    (folder / "model.safetensors").unlink()
    names = {key: f"model-{1 + number % 2}-of-2.safetensors" for number, key in enumerate(weights)}
    for name in set(names.values()):
        save_file({key: weights[key] for key in weights if names[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


# Reading


def test_the_model_of_a_folder_is_that_of_its_config(folder: Path) -> None:
    """Nothing is lost on the way."""
    assert model_from_folder(folder) == MODEL


def test_a_parameter_is_read_as_it_is_in_the_file(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """To the bit, and in the file's dtype."""
    with Checkpoint.open(folder) as checkpoint:
        for name in (DOWN, "model.layers.1.mlp.gate.e_score_correction_bias", "model.norm.weight"):
            read = checkpoint.read(name)
            assert read.dtype == checkpoint.dtype(name) == weights[name].dtype
            assert torch.equal(read, weights[name])


def test_a_slice_is_that_part_of_the_whole(folder: Path) -> None:
    """Along either dimension, and with open ends."""
    with Checkpoint.open(folder) as checkpoint:
        whole = checkpoint.read(DOWN)
        for part in ((slice(8, 24), slice(None)), (slice(None), slice(48, 96)), (slice(-8, None), slice(3, 5))):
            assert torch.equal(checkpoint.read(DOWN, part), whole[part])


def test_experts_are_stacked_from_their_own_tensors(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Experts 2 and 3, first 16 rows of each."""
    with Checkpoint.open(folder) as checkpoint:
        read = checkpoint.read(GATE, (slice(2, 4), slice(0, 16), slice(None)))
    keys = [f"model.layers.1.mlp.experts.{expert}.gate_proj.weight" for expert in (2, 3)]
    assert torch.equal(read, torch.stack([weights[key][:16] for key in keys]))


def test_a_slice_of_nothing_is_empty(folder: Path) -> None:
    """A rank past the end of what is cut holds nothing."""
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.read(DOWN, (slice(64, 64), slice(None))).shape == (0, 96)
        assert checkpoint.read(GATE, (slice(4, 2), slice(None), slice(None))).shape == (0, 32, 64)


def test_a_slice_that_skips_or_lacks_a_dimension_is_refused(folder: Path) -> None:
    """These are the caller's mistakes."""
    with Checkpoint.open(folder) as checkpoint:
        with pytest.raises(ValueError, match="2 dimensions"):
            checkpoint.read(DOWN, (slice(None),))
        with pytest.raises(ValueError, match="steps of 1"):
            checkpoint.read(DOWN, (slice(0, 64, 2), slice(None)))


def test_shards_and_one_file_read_alike(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """The digest does not know how the tensors were spread."""
    with Checkpoint.open(folder) as checkpoint:
        single = verify(checkpoint)
    shards(folder, weights)
    with Checkpoint.open(folder) as checkpoint:
        assert len(checkpoint.shards) == 2
        assert verify(checkpoint) == single
    (folder / "model.safetensors.index.json").unlink()
    with Checkpoint.open(folder) as checkpoint:
        assert verify(checkpoint) == single


def test_one_file_is_a_checkpoint_when_the_model_is_known(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Which is how a preset's weights are stored."""
    with Checkpoint.open(folder / "model.safetensors", MODEL) as checkpoint:
        assert torch.equal(checkpoint.read(DOWN), weights[DOWN])
        assert checkpoint.keys() == sorted(weights)
    with pytest.raises(UsageError, match="does not say what model it is"):
        Checkpoint.open(folder / "model.safetensors")


def test_weights_of_the_store_are_mapped(
    folder: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the map is read in no time; experts are stacked from theirs. A large file is read as any other."""
    file = folder / "model.safetensors"
    with Checkpoint.open(file, MODEL, stored=True) as checkpoint:
        read = checkpoint.read(DOWN, (slice(8, 24), slice(3, 5)))
        assert read.untyped_storage().nbytes() == file.stat().st_size
        assert torch.equal(read, weights[DOWN][8:24, 3:5])
        assert torch.equal(checkpoint.read(GATE)[3], weights["model.layers.1.mlp.experts.3.gate_proj.weight"])
    monkeypatch.setattr(mapped, "LARGEST", file.stat().st_size - 1)
    with Checkpoint.open(file, MODEL, stored=True) as checkpoint:
        assert checkpoint.read(DOWN).untyped_storage().nbytes() == weights[DOWN].nbytes


def test_what_is_read_outlives_the_file(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """A tensor is a copy: a view would hold the whole file in memory."""
    with Checkpoint.open(folder) as checkpoint:
        read = checkpoint.read(DOWN, (slice(0, 1), slice(0, 1)))
    assert read.untyped_storage().nbytes() == 2
    assert torch.equal(read, weights[DOWN][:1, :1])


def test_transformers_writes_exactly_the_parameters_that_are_expected(tmp_path: Path) -> None:
    """Names, shapes and values of tiny as DeepseekV3ForCausalLM saves it; none is missing and none is left."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    hugging_face = DeepseekV3ForCausalLM(DeepseekV3Config(**{**config(), "num_key_value_heads": MODEL.num_attention_heads}))
    hugging_face.save_pretrained(tmp_path)
    with Checkpoint.open(tmp_path) as checkpoint:
        assert checkpoint.model == replace(MODEL, max_position_embeddings=checkpoint.model.max_position_embeddings)
        assert checkpoint.unused() == []
        assert checkpoint.set_aside == {}
        fused = hugging_face.state_dict()["model.layers.1.mlp.experts.gate_up_proj"]
        assert torch.equal(checkpoint.read(GATE), fused[:, : MODEL.moe_intermediate_size])


@pytest.mark.parametrize(
    "change", [{"q_lora_rank": None}, {"n_shared_experts": 2}, {"tie_word_embeddings": True}, {"first_k_dense_replace": 4}]
)
def test_transformers_and_the_table_agree_on_variants(tmp_path: Path, change: dict[str, Any]) -> None:
    """Without query compression, with two shared experts, tied, all dense."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    written = {**config(), "num_key_value_heads": MODEL.num_attention_heads, **change}
    DeepseekV3ForCausalLM(DeepseekV3Config(**written)).save_pretrained(tmp_path)
    with Checkpoint.open(tmp_path) as checkpoint:
        assert checkpoint.unused() == []


# A part of the layers


def test_chosen_layers_are_renumbered(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """The model's layer 1 is the file's layer 2, and layer 0 stays dense."""
    with Checkpoint.open(folder, layers=(0, 2, 3)) as checkpoint:
        assert (checkpoint.model.num_hidden_layers, checkpoint.model.dense_layers) == (3, (0,))
        name = "model.layers.{}.mlp.gate.weight"
        assert torch.equal(checkpoint.read(name.format(1)), weights[name.format(2)])
        assert torch.equal(checkpoint.read(GATE)[5], weights["model.layers.2.mlp.experts.5.gate_proj.weight"])
        assert checkpoint.unused() == []
        assert checkpoint.set_aside == {"layers not chosen": sum(".layers.1." in key for key in weights)}


def test_only_the_dense_layers_that_are_chosen_count(folder: Path) -> None:
    """Layers 2 and 3 alone are a model without dense layers."""
    assert model_from_folder(folder, (2, 3)) == replace(MODEL, num_hidden_layers=2, first_k_dense_replace=0)


@pytest.mark.parametrize("layers", [(1, 0), (1, 1), (0, 4), (-1, 0)])
def test_layers_are_ascending_and_in_the_file(folder: Path, layers: tuple[int, ...]) -> None:
    """The sentence says which may be given."""
    with pytest.raises(UsageError, match="ascending order, each once, from 0 to 3"):
        model_from_folder(folder, layers)


def test_a_model_given_has_as_many_layers_as_are_chosen(folder: Path) -> None:
    """Four layers of a model do not fit two of a file."""
    with pytest.raises(UsageError, match="2 layers were chosen for a model of 4"):
        Checkpoint.open(folder, MODEL, (0, 1))


def test_keys_are_set_aside_for_a_reason_or_unused(folder: Path) -> None:
    """Multi-token prediction and inverse frequencies have their reasons; anything else is reported."""
    extra = {
        "model.layers.4.eh_proj.weight": torch.zeros(1),
        "model.layers.4.enorm.weight": torch.zeros(1),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(1),
        "model.layers.0.self_attn.q_a_proj.bias": torch.zeros(1),
        "model.layers.1.mlp.experts.16.up_proj.weight": torch.zeros(1),
    }
    rewrite(folder, lambda tensors: tensors.update(extra))
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.set_aside == {"multi-token prediction layers": 2, "rotary_emb.inv_freq": 1}
        assert checkpoint.unused() == [*sorted(extra)[:1], "model.layers.1.mlp.experts.16.up_proj.weight"]


@pytest.mark.parametrize("layers", [(), (0, 2)], ids=["all layers", "two of them"])
def test_an_mtp_layer_follows_the_file_s_last(folder: Path, weights: dict[str, torch.Tensor], layers: tuple[int, ...]) -> None:
    """It is the file's layer 4, however many of the others are taken; its copies of embedding and head are set aside."""
    model = replace(model_from_folder(folder, layers), num_nextn_predict_layers=1)
    own = {"enorm.weight": (64,), "hnorm.weight": (64,), "eh_proj.weight": (64, 128), "shared_head.norm.weight": (64,)}
    mtp = {f"model.layers.4.{name}": torch.randn(shape) for name, shape in own.items()}
    mtp |= {key.replace("layers.3.", "layers.4."): value for key, value in weights.items() if "layers.3." in key}
    copies = {f"model.layers.4.{name}.weight": torch.zeros(1) for name in ("embed_tokens", "shared_head.head")}
    rewrite(folder, lambda tensors: tensors.update(mtp | copies))
    with Checkpoint.open(folder, model, layers) as checkpoint:
        name = f"model.layers.{model.num_hidden_layers}.eh_proj.weight"
        assert torch.equal(checkpoint.read(name), mtp["model.layers.4.eh_proj.weight"])
        assert checkpoint.set_aside["multi-token prediction layers"] == 2
        assert checkpoint.unused() == []


def test_an_mtp_layer_that_the_file_lacks_is_named(folder: Path) -> None:
    """By the key that the file should have."""
    with pytest.raises(UsageError, match=r"model\.layers\.4\.enorm\.weight is missing"):
        Checkpoint.open(folder, replace(MODEL, num_nextn_predict_layers=1))


# What can be wrong


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def listed_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def other_architecture(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**config(), "model_type": "llama"}))


def worded_size(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**config(), "vocab_size": "many"}))


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "gone.safetensors"}})
    )


def shard_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


def broken_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[]")


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.example/spec/v1\noid sha256:00\nsize 1\n")


def missing_keys(folder: Path) -> None:
    rewrite(folder, lambda tensors: [tensors.pop(key) for key in list(tensors) if ".3.mlp.experts.7." in key])


def wrong_shape(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({DOWN: torch.zeros(64, 95)}))


def fp8(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({DOWN: tensors[DOWN].to(torch.float8_e4m3fn)}))


def fp8_scales(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({f"{DOWN}_scale_inv": torch.ones(1, 1)}))


def integers(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({DOWN: tensors[DOWN].to(torch.int8)}))


def mixed_experts(folder: Path) -> None:
    key = "model.layers.1.mlp.experts.3.gate_proj.weight"
    rewrite(folder, lambda tensors: tensors.update({key: tensors[key].float()}))


def twice(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    without_weights(folder)
    save_file(tensors, folder / "a.safetensors")
    save_file({DOWN: tensors[DOWN]}, folder / "b.safetensors")


WRONG = [
    (without_config, "no config.json; name a HuggingFace checkpoint folder"),
    (broken_config, "config.json is not JSON"),
    (listed_config, "config.json is not a JSON object"),
    (other_architecture, "Llama .model_type 'llama'. is not compared: it has grouped-query attention"),
    (worded_size, "vocab_size in config.json is 'many'"),
    (without_weights, "no safetensors files; save the model with save_pretrained"),
    (missing_shard, r"names gone.safetensors, which is not there \(1 missing\)"),
    (shard_elsewhere, "names ../model.safetensors, which is not there"),
    (broken_index, "not a safetensors index"),
    (truncated, "model.safetensors: not a whole safetensors file .*; download it again"),
    (pointer, "not a whole safetensors file"),
    (missing_keys, r"model.layers.3.mlp.experts.7.gate_proj.weight is missing \(3 of the model's tensors are\)"),
    (wrong_shape, rf"{DOWN} has shape \(64, 95\) and config.json needs \(64, 96\)"),
    (fp8, f"{DOWN} is fp8 block-quantised; `python -m validation convert --to-hf"),
    (fp8_scales, f"{DOWN} is fp8 block-quantised; `python -m validation convert --to-hf"),
    (integers, f"{DOWN} is stored as I8; convert it to bf16 first"),
    (mixed_experts, "experts.3.gate_proj.weight is F32 and .*experts.0.gate_proj.weight BF16"),
    (twice, f"{DOWN} is in a.safetensors and in b.safetensors"),
]


@pytest.mark.parametrize(("damage", "said"), WRONG, ids=[row[0].__name__ for row in WRONG])
def test_a_damaged_folder_is_refused_in_one_sentence(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    """It names the folder, what is wrong and what would mend it."""
    damage(folder)
    with pytest.raises(UsageError, match=said) as raised:
        Checkpoint.open(folder)
    assert str(raised.value).startswith(str(folder))
    assert "\n" not in str(raised.value)


def test_a_file_that_becomes_shorter_while_it_is_open_is_refused(folder: Path) -> None:
    """What has been opened was whole: reading says what has happened since."""
    with Checkpoint.open(folder) as checkpoint:
        for shard in checkpoint.shards:
            os.truncate(shard.path, shard.path.stat().st_size // 2)
        with pytest.raises(UsageError, match=r"ends \d+ bytes before its header says; download it again"):
            verify(checkpoint)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A slip in the path is the commonest of all."""
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        Checkpoint.open(tmp_path / "nowhere")


def test_a_tied_model_needs_no_output_layer(folder: Path) -> None:
    """save_pretrained leaves it out."""
    rewrite(folder, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(UsageError, match=r"lm_head\.weight is missing"):
        Checkpoint.open(folder)
    (folder / "config.json").write_text(json.dumps({**config(), "tie_word_embeddings": True}))
    Checkpoint.open(folder).close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, value: float) -> None:
    """One element of one expert is enough."""
    key = "model.layers.2.mlp.experts.9.up_proj.weight"
    rewrite(folder, lambda tensors: tensors[key][3, 5].fill_(value))
    with Checkpoint.open(folder) as checkpoint, pytest.raises(UsageError, match=re.escape(key)):
        verify(checkpoint)


def test_what_the_model_does_not_use_may_be_anything(folder: Path) -> None:
    """NaN in a layer that was not chosen says nothing about those that were."""
    rewrite(folder, lambda tensors: tensors["model.layers.1.mlp.gate.weight"].fill_(float("nan")))
    with Checkpoint.open(folder, layers=(0, 2)) as checkpoint:
        verify(checkpoint)


def test_the_digest_changes_with_one_bit_and_with_the_dtype(folder: Path) -> None:
    """And with nothing else: it is that of the weights."""

    def digest() -> str:
        with Checkpoint.open(folder) as checkpoint:
            return verify(checkpoint)

    whole = digest()
    assert digest() == whole
    rewrite(folder, lambda tensors: tensors[DOWN].view(torch.int16)[63, 95].bitwise_xor_(1))
    flipped = digest()
    rewrite(folder, lambda tensors: tensors.update({DOWN: tensors[DOWN].float()}))
    assert len({whole, flipped, digest()}) == 3


# Memory

RESIDENT = """
import sys, torch
from validation.case.model import Model
from validation.compare import mapped, sliced
from validation.reference.checkpoint import Checkpoint, verify

def resident() -> int:
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

sliced.AT_ONCE = int(sys.argv[2])
with Checkpoint.open(sys.argv[1]) as checkpoint:
    torch.zeros(1).isfinite().all()
    before, most = resident(), 0
    kept = []
    for name in checkpoint.parameters:
        if name.startswith(("model.embed", "lm_head")):
            kept.append(checkpoint.read(name, (slice(None), slice(0, 16))))
            most = max(most, resident())
    print(most - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 300 MB, nearly all of it in two tensors of 150 MB."""
    path = tmp_path_factory.mktemp("large")
    model = replace(MODEL, vocab_size=600_000, num_hidden_layers=1)
    (path / "config.json").write_text(json.dumps({**config(), "vocab_size": model.vocab_size, "num_hidden_layers": 1}))
    save_file(
        {name: torch.ones(p.shape, dtype=torch.float32) for name, p in parameters(model).items()}, path / "model.safetensors"
    )
    return path


def grown(path: Path, at_once: int) -> int:
    """By how many MiB a process grows that reads a quarter of every row, in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", RESIDENT, str(path), str(at_once)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_resident_memory_is_bounded_by_the_slices_and_not_by_the_file(large: Path) -> None:
    """75 MiB are kept of 300: at most 64 more are resident; with everything read at once, all of one tensor is."""
    assert (large / "model.safetensors").stat().st_size > 290 * 2**20
    assert grown(large, sliced.AT_ONCE) < 75 + 64 + 16
    assert grown(large, 2**40) > 37 + 150
