"""`inspect`: the first answer about a folder, without torch, whatever is odd about it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.convert.folders import FP8, MODEL, TIED, WITHOUT_MTP, config, quantised, weights, write
from tests.convert.test_int4 import CONFIG as INT4
from tests.convert.test_int4 import quantised as packed
from tests.reference.published_families import CONFIGS
from validation.case.errors import UsageError
from validation.case.model import Model
from validation.cli import main
from validation.convert.huggingface import HuggingFace
from validation.inspection.command import answer

Tensors = dict[str, torch.Tensor]


def said(folder: Path, about: str = "odd") -> list[str]:
    return [text for name, text in answer(folder) if name == about]


def fused(tensors: Tensors) -> Tensors:
    """A layer's experts in two tensors, as transformers 5 holds them."""
    found = {key: tensor for key, tensor in tensors.items() if ".mlp.experts." not in key}
    for layer in WITHOUT_MTP.moe_layers:
        prefix = f"model.layers.{layer}.mlp.experts."
        each = [
            {name: tensors[f"{prefix}{expert}.{name}_proj.weight"] for name in ("gate", "up", "down")}
            for expert in range(WITHOUT_MTP.n_routed_experts)
        ]
        found[f"{prefix}gate_up_proj"] = torch.stack([torch.cat([one["gate"], one["up"]]) for one in each])
        found[f"{prefix}down_proj"] = torch.stack([one["down"] for one in each])
    return found


def without(*endings: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if not key.endswith(endings)}


def renamed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + key: tensor for key, tensor in tensors.items()}


def same(tensors: Tensors) -> Tensors:
    return tensors


ODD: dict[str, tuple[Model, Callable[[Tensors], Tensors], dict[str, Any], list[str]]] = {
    "nothing": (WITHOUT_MTP, same, {}, ["nothing"]),
    "MTP": (MODEL, same, {}, ["nothing"]),
    "MTP without weights": (
        WITHOUT_MTP,
        same,
        {"num_nextn_predict_layers": 1},
        ["config.json says 1 MTP layer, and the files hold none"],
    ),
    "MTP without a number": (
        MODEL,
        same,
        {"num_nextn_predict_layers": 0},
        ["the files hold 1 MTP layer that config.json does not name"],
    ),
    "fused experts": (WITHOUT_MTP, fused, {}, ["experts are fused, as transformers 5 holds them in memory"]),
    "a wrapped model": (
        WITHOUT_MTP,
        renamed("module."),
        {},
        ["keys begin with `module.`"],
    ),
    "a head that is missing": (
        WITHOUT_MTP,
        without("lm_head.weight"),
        {},
        ["1 tensor of the model is missing, the first is lm_head"],
    ),
    "tied with a head": (
        TIED,
        lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()},
        {},
        ["and there is an lm_head"],
    ),
    "a tensor too many": (
        WITHOUT_MTP,
        lambda t: t | {"model.more": torch.ones(2)},
        {},
        ["1 tensor has no place in the model: model.more"],
    ),
    "another vocabulary": (
        WITHOUT_MTP,
        same,
        {"vocab_size": 256},
        ["2 tensors have another shape than config.json says: model.embed"],
    ),
    "a key that nobody reads": (
        WITHOUT_MTP,
        same,
        {"clever": True},
        ["keys of config.json that neither transformers nor Plumbline reads: clever"],
    ),
    "text of text and pictures": (
        WITHOUT_MTP,
        lambda t: renamed("language_model.")(t) | {"vision_tower.a": torch.ones(1)},
        {},
        ["1 tensor is of the vision tower"],
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_said_and_nothing_else(name: str, tmp_path: Path) -> None:
    model, change, more, sentences = ODD[name]
    tensors = change(weights(model))
    found = said(write(tmp_path / "hf", model, tensors, **{"num_nextn_predict_layers": model.num_nextn_predict_layers, **more}))
    assert len(found) == len(sentences)
    assert all(sentence in one for sentence, one in zip(sentences, found, strict=True)), found


def test_a_file_beside_the_index_is_named(tmp_path: Path) -> None:
    """What it holds counts: MTP layers are published so."""
    folder = write(tmp_path / "hf", WITHOUT_MTP, weights(WITHOUT_MTP), num_nextn_predict_layers=1)
    last = {key: tensor for key, tensor in weights(MODEL).items() if key.startswith("model.layers.4.")}
    save_file(last, folder / "mtp.safetensors")
    assert said(folder) == [f"mtp.safetensors is not in the index, and holds {len(last)} tensors of its own"]


def test_a_file_that_is_not_there_is_named_without_an_index(tmp_path: Path) -> None:
    folder = write(tmp_path / "hf", WITHOUT_MTP, weights(WITHOUT_MTP), num_nextn_predict_layers=0)
    for name in ("model-00002-of-00002.safetensors", "model.safetensors.index.json"):
        (folder / name).unlink()
    assert said(folder)[0].startswith("model-00002-of-00002.safetensors is not there, by the names of the other files")


def test_a_sound_folder_can_be_run_and_converted(tmp_path: Path) -> None:
    folder = write(tmp_path / "hf", MODEL, weights(MODEL), num_nextn_predict_layers=1)
    works = said(folder, "works")
    assert [text.split(" --")[0].rpartition(" ")[2] for text in works] == ["convert", "run"]
    assert works[1].endswith("--layouts single,tp2,pp2,ep2")
    assert said(folder, "quantised") == ["none"]
    assert said(folder, "memory")[0].startswith("about ")


@pytest.mark.parametrize(("model", "streams"), [(WITHOUT_MTP, True), (TIED, False)])
def test_what_does_not_fit_is_run_in_a_way_that_run_takes(
    model: Model, streams: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run` refuses tied embeddings layer by layer, so that nothing suggests --stream for them."""
    folder = write(tmp_path / "hf", model, weights(model), num_nextn_predict_layers=0)
    monkeypatch.setattr("validation.machine.available_memory", lambda: 1)
    (command,) = (text for text in said(folder, "works") if " run " in text)
    assert "--layers 0,1" in command
    assert ("--stream" in command, "--stream" in said(folder, "memory")[0]) == (streams, streams)


def test_an_fp8_folder_is_converted_first(tmp_path: Path) -> None:
    """The next command is one that works."""
    folder = write(tmp_path / "hf", WITHOUT_MTP, quantised(weights(WITHOUT_MTP)), num_nextn_predict_layers=0, **FP8)
    assert said(folder, "quantised") == ["fp8 in blocks of 128 x 128, scales in F32"]
    assert said(folder, "refused") == ["run: the weights are quantised; the next command makes a folder in bf16 that it takes"]
    assert "convert --to-hf --load" in said(folder, "works")[-1]
    assert said(folder) == ["nothing"]


BLOCKS = FP8["quantization_config"]


def in_bytes(tensors: Tensors, kind: torch.dtype) -> Tensors:
    """Tensors of this dtype as whole numbers of eight bits."""
    return {key: tensor.view(torch.uint8) if tensor.dtype == kind else tensor for key, tensor in tensors.items()}


UNREAD: dict[str, tuple[Callable[[Tensors], Tensors], Any]] = {
    "scales of another name": (
        lambda t: {key.replace("_scale_inv", "_scale"): t[key] for key in t},
        FP8["quantization_config"],
    ),
    "scales of bytes": (
        lambda t: {key: v.to(torch.uint8) if key.endswith("_scale_inv") else v for key, v in t.items()},
        FP8["quantization_config"],
    ),
    "a scale for each channel": (same, {"quant_method": "compressed-tensors", "format": "float-quantized"}),
    "weights of bytes": (lambda t: in_bytes(without("_scale_inv")(t), torch.float8_e4m3fn), {"quant_method": "modelopt"}),
}


@pytest.mark.parametrize("name", UNREAD)
def test_nothing_is_promised_of_weights_that_nothing_reads(name: str, tmp_path: Path) -> None:
    """`convert` refuses the same folder."""
    change, how = UNREAD[name]
    folder = write(tmp_path / "hf", WITHOUT_MTP, change(quantised(weights(WITHOUT_MTP))), quantization_config=how)
    assert said(folder, "works") == []
    assert said(folder, "refused") == [
        "run and convert: nothing here reads weights that are quantised so; take the folder in bf16"
    ]
    with pytest.raises(UsageError):
        HuggingFace.open(folder)


def one(end: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Tensors], Tensors]:
    """The first tensor whose name ends so is changed, or left out."""

    def changed(tensors: Tensors) -> Tensors:
        first = next(key for key in tensors if key.endswith(end))
        made = change(tensors[first])
        rest = {key: tensor for key, tensor in tensors.items() if key != first}
        return rest if made is None else {**rest, first: made}

    return changed


def more(**tensors: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda found: found | {key.replace("__", "."): tensor for key, tensor in tensors.items()}


REFUSED: dict[str, tuple[Callable[[Tensors], Tensors], dict[str, Any], str]] = {
    "an expert in another dtype": (
        one(".experts.3.gate_proj.weight", torch.Tensor.half),
        {},
        "store the experts of a layer alike",
    ),
    "an expert that is not packed": (
        lambda t: (
            {key: v for key, v in packed(t)[0].items() if ".experts.3.gate_proj" not in key}
            | {key: v for key, v in t.items() if ".experts.3.gate_proj" in key}
        ),
        INT4,
        "store the experts of a layer alike",
    ),
    "a scale that is missing": (
        lambda t: one("_scale_inv", lambda _: None)(quantised(t)),
        FP8,
        "1 weight in fp8 has no scales",
    ),
    "a scale of another shape": (
        lambda t: one("_scale_inv", lambda _: torch.ones(2, 2))(quantised(t)),
        FP8,
        "the scales of 1 weight do not fit blocks of 128 x 128",
    ),
    "blocks of another size": (
        quantised,
        {"quantization_config": {**FP8["quantization_config"], "weight_block_size": [64, 64]}},
        "do not fit blocks of 64 x 64",
    ),
    "scales of a plain weight": (
        more(model__layers__0__mlp__down_proj__weight_scale_inv=torch.ones(1, 1)),
        FP8,
        "1 weight has scales and is not in fp8",
    ),
    "more rows of the vocabulary": (
        one("embed_tokens.weight", lambda t: torch.cat([t, t[:8]])),
        {},
        "1 tensor has another shape than config.json says",
    ),
    "a bias": (more(model__norm__bias=torch.zeros(64)), {}, "1 tensor has no place in the model"),
    "keys of an unknown wrapper": (renamed("base_model.model."), {}, "its keys begin with `base_model.model.`; save the model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_readers_refuse_by_headers_is_promised_to_nobody(name: str, tmp_path: Path) -> None:
    """`inspect` says why."""
    change, config_more, sentence = REFUSED[name]
    tensors = change(weights(WITHOUT_MTP))
    folder = write(tmp_path / "hf", WITHOUT_MTP, tensors, num_nextn_predict_layers=0, **config_more)
    with pytest.raises(UsageError):
        HuggingFace.open(folder)
    assert said(folder, "works") == []
    assert any(sentence in text for text in said(folder)), said(folder)


def test_a_broken_mtp_layer_is_left_out_by_the_command_that_works(tmp_path: Path) -> None:
    tensors = {key: tensor for key, tensor in weights(MODEL).items() if "layers.4.mlp.experts.5." not in key}
    folder = write(tmp_path / "hf", MODEL, tensors)
    assert [text.split(str(folder))[1] for text in said(folder, "works")] == [
        " --save OUT --no-mtp",
        " --layouts single,tp2,pp2,ep2",
    ]
    HuggingFace.open(folder, mtp=False).close()


def test_a_folder_of_the_hub_s_cache_names_the_model_in_it(tmp_path: Path) -> None:
    write(tmp_path / "models--a--b" / "snapshots" / "1f", WITHOUT_MTP, weights(WITHOUT_MTP))
    with pytest.raises(UsageError, match=r"no config.json; .* such as .*/models--a--b/snapshots/1f$"):
        list(answer(tmp_path / "models--a--b"))


def test_a_family_that_is_not_compared_ends_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**config(MODEL), "model_type": "glm5_next"}))
    with pytest.raises(UsageError, match=r"GLM-5-Next .* have linear attention .* nearest family .* is glm4_moe_lite"):
        list(answer(tmp_path))


def test_a_layout_that_cannot_run_is_refused_with_its_reason(tmp_path: Path) -> None:
    three = replace(WITHOUT_MTP, num_hidden_layers=3)
    folder = write(tmp_path / "hf", three, weights(three), num_nextn_predict_layers=0)
    assert said(folder, "refused") == ["run in pp2: pp2 does not divide the 3 layers into equal stages; pp1 and pp3 do"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "hf", WITHOUT_MTP, weights(WITHOUT_MTP), num_nextn_predict_layers=0)
    file = sorted(folder.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"and .* are there; download it again"):
        list(answer(folder))


def test_the_command_prints_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "hf", WITHOUT_MTP, weights(WITHOUT_MTP), num_nextn_predict_layers=0)
    assert main(["inspect", "--", str(folder)]) == 0  # everywhere else names stand behind --, too
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("family        DeepSeek-V3, R1, V3.1, Moonlight")
    assert lines[2] == "parameters    413.5 thousand by config.json, without MTP layers"
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2


def test_it_imports_no_torch() -> None:
    """The answer comes within two seconds."""
    code = "import sys, validation.inspection.command; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def megatron_files(folder: Path, *names: str) -> Path:
    """A folder with files of these names, of a byte each."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"1")
    return folder


@pytest.mark.parametrize(
    ("names", "said"),
    [
        pytest.param(
            ("iter_0000007/.metadata", "iter_0000007/__0_0.distcp", "iter_0000003/.metadata"),
            ["torch_dist: any layout", "step 7, in iter_0000007", "2 files", "1 other step is there (iter_0000003)"],
            id="torch_dist",
        ),
        pytest.param(
            ("iter_0000007/mp_rank_00_000/model_optim_rng.pt", "iter_0000007/mp_rank_02_001/model_optim_rng.pt"),
            [
                "2 ranks, 2 of tensor parallelism and 2 stages",
                "step 7",
                "2 files",
                "ranks 0, 2 have a file, and others have none",
            ],
            id="legacy with a rank missing",
        ),
        pytest.param(
            ("iter_0000007/.metadata",), ["any layout", "step 7", "1 file", "no .distcp file"], id="torch_dist without files"
        ),
    ],
)
def test_a_megatron_folder_says_what_its_files_tell(names: tuple[str, ...], said: list[str], tmp_path: Path) -> None:
    """And which command reads it, with the config.json that it has not."""
    (megatron_files(tmp_path, *names) / "latest_checkpointed_iteration.txt").write_text("7", encoding="utf-8")
    lines = list(answer(tmp_path))
    assert [name for name, _ in lines] == ["format", "checkpoint", "files", "odd", "needs", "works", "works"]
    for (_, text), part in zip(lines, said, strict=False):
        assert part in text
    assert "--hf-model-path DIR" in lines[-2][1]


def test_a_converted_folder_has_its_config_beside_it(tmp_path: Path) -> None:
    megatron_files(tmp_path, "release/.metadata", "release/__0_0.distcp")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("release", encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["deepseek_v32"]), encoding="utf-8")
    told = dict(answer(tmp_path))
    assert told["family"].startswith("DeepSeek-V3.2")
    assert "5 keys of a query by 4 index heads" in told["model"]
    assert "needs" not in told


@pytest.mark.parametrize("form", ["torch_dist", "legacy"])
def test_names_of_transformer_engine_need_gpus(form: str, tmp_path: Path) -> None:
    """`run` refuses them with its default, so the command says which implementation reads them."""
    index = "release/.metadata" if form == "torch_dist" else "release/mp_rank_00/model_optim_rng.pt"
    (file := megatron_files(tmp_path, index) / index).write_bytes(b"linear_fc1.layer_norm_weight")
    if form == "legacy":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model_optim_rng/data.pkl", b"linear_fc1.layer_norm_weight")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("release", encoding="utf-8")
    assert dict(answer(tmp_path))["on GPUs"].endswith(" --implementation te")
