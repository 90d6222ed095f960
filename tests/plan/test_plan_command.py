"""`plan` as a reader meets it: layouts, sentences, JSON, and commands that run."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.properties import few
from validation import cli
from validation.case.layout import Layout
from validation.case.pipeline_layout import parse
from validation.plan.layouts import layouts, split
from validation.plan.question import DEEPSEEK_V3
from validation.plan.show import compact
from validation.recipe.pipeline import chunks
from validation.recipe.signature import Full, Options
from validation.recipe.standin import check
from validation.run.options import parsed

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tests" / "recipe" / "known" / "megatron-bridge-deepseek-v3-1024.yaml"
SCHEMA = Draft202012Validator(json.loads((ROOT / "docs" / "json.schema.json").read_text()))


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The exit code, and what is printed."""
    code = cli.main(["plan", *words])
    said = capsys.readouterr()
    return code, said.out or said.err


def document(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code, text = plan(capsys, *words, "--format", "json")
    found: dict[str, Any] = json.loads(text)
    SCHEMA.validate(found)
    assert found["exit_code"] == code
    return found


def test_deepseek_v3_fits_256_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    """Each layout fills the GPUs and fits; the text shows some of them, with what stands for each."""
    found = document(capsys, "--model", "deepseek-v3", "--gpus", "256", "--show", "2")
    assert found["model"] == {"name": "deepseek-v3", "parameters": 671026404352, "active": 37552282624, "mtp": 11610067968}
    assert {Layout.parse(one["layout"]).ranks for one in found["layouts"]} == {256}
    assert max(one["memory"]["total"] for one in found["layouts"]) <= found["room"] == 74 << 30
    assert len(found["layouts"]) < found["tried"]
    for one in found["shown"]:
        assert one["memory"] == one["stages"][one["stage"]] == max(one["stages"], key=lambda stage: stage["total"])
        assert "mtp_stage" in one
        assert one["stand_in"]["ranks"] <= 16


def test_the_command_of_a_stand_in_runs_that_stand_in(capsys: pytest.CaptureFixture[str]) -> None:
    """Model, layout with its options, stages and data; Plumbline's own parser reads it."""
    shown = document(capsys, "--model", "deepseek-v3", "--gpus", "256", "--layout", "pp8ep32")["shown"][0]["stand_in"]
    words = shlex.split(shown["command"])
    (case,) = parsed(words[words.index("run") + 1 :]).cases
    assert (case.layout.name, case.layout.ranks, case.model.num_nextn_predict_layers) == (shown["layout"], shown["ranks"], 1)
    assert dict(case.training.settings) == {"model.pipeline_model_parallel_layout": "Ett|tt|tmL"}
    assert (case.training.optimizer, case.model.vocab_size, case.micro_batches) == ("distributed", 72, 4)


def test_a_recipe_s_own_layout_stands_first_whether_it_fits_or_not(capsys: pytest.CaptureFixture[str]) -> None:
    """NVIDIA's recipe for 1024 GPUs, on GPUs that are too small for it."""
    code, text = plan(capsys, "--recipe", str(RECIPE), "--gpus", "1024", "--gpu-memory", "20", "--reserve", "0")
    assert code == 1
    assert "none of" in text
    assert "tp2pp16ep64etp1dp32, the recipe's own: does not fit" in text
    assert "pipeline:   Et*4|(t*4|)*14tmL" in text


@pytest.mark.parametrize(
    ("recipe", "gpus", "why"),
    [
        ("megatron-lm-deepseekv3-proxy-h100.txt", "24", "24 ranks do not hold etp x ep x pp = 64; give a multiple of 64 ranks"),
        (
            "megatron-lm-deepseekv3-proxy-gb200.txt",
            "96",
            "512 sequences of a step; a --global-batch-size that is a multiple of 96",
        ),
    ],
)
def test_a_recipe_whose_own_layout_cannot_be_on_so_many_gpus_still_has_others(
    capsys: pytest.CaptureFixture[str], recipe: str, gpus: str, why: str
) -> None:
    code, text = plan(capsys, "--recipe", str(RECIPE.with_name(recipe)), "--gpus", gpus)
    assert code == 0
    assert " layouts fit; " in text
    assert "the recipe's own layout is left out: " in text
    assert why in text


def test_a_folder_s_own_number_of_mtp_layers_counts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = {"model_type": "deepseek_v3", "num_nextn_predict_layers": 1, **TINY}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert document(capsys, "--model", str(tmp_path), "--gpus", "4")["model"]["mtp"] > 0
    assert document(capsys, "--model", str(tmp_path), "--gpus", "4", "--mtp", "0")["model"]["mtp"] == 0


TINY: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 4,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 32,
    "v_head_dim": 16,
}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--gpus 8", "plan needs a model"),
        ("--gpus 0 --model tiny", "--gpus 0: give a number from 1"),
        ("--gpus 12 --model tiny", "--gpus 12 is no multiple of --gpus-per-node 8"),
        ("--gpus 999999999 --model tiny", "a layout has up to 131072 ranks"),
        ("--gpus 8 --model tiny --reserve 80", "leaves nothing of --gpu-memory 80"),
        ("--gpus 8 --model tiny --imbalance 0.5", "give a number from 1"),
        ("--gpus 8 --model nowhere", "is neither a folder with config.json nor one of deepseek-v3, tiny"),
        ("--gpus 8 --model tiny --layout tp3", "needs a multiple of 3 ranks and --gpus says 8"),
        ("--gpus 8 --model tiny --layout tp2dp2", "needs 4 ranks and --gpus says 8"),
        ("--gpus 8 --model tiny --layout tp8", "tp8 does not divide the 4 attention heads"),
        ("--gpus 8 --model tiny --layout pp8", "leaves a stage without a layer"),
        ("--gpus 8 --model tiny --layout tp2 --global-batch-size 6", "a multiple of 4 works"),
        ("--gpus 8 --model tiny --set hidden_size", "write NAME=VALUE"),
        ("--gpus 8 --model tiny --set nonsense=1", "no such number"),
        ("--gpus 8 --model tiny --set hidden_size=0", "hidden_size is 0; it must be a whole number of at least 1"),
        ("--gpus 8 --model tiny --set n_routed_experts=0", "n_routed_experts is 0; it must be a whole number of at least 1"),
        ("--gpus 8 --model tiny --set vocab_size=-1", "vocab_size is -1; it must be"),
        ("--gpus 8 --model tiny --set vocab_size=1000000000000", "vocab_size is 1000000000000; no model has more"),
        ("--gpus 8 --model tiny --set num_experts_per_tok=17", "num_experts_per_tok 17 is more than"),
        ("--gpus 8 --model tiny --set n_group=7", "n_group 7 does not divide"),
        ("--gpus 8 --model tiny --set rope_theta=nan", "rope_theta is nan"),
        ("--gpus 8 --model tiny --set padded_vocab_size=5", "leave it out"),
        ("--gpus 8 --model tiny -- -k mla", "plan takes nothing behind --"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = plan(capsys, *words.split())
    assert code == 2
    assert sentence in said
    assert "Traceback" not in said


def test_the_only_layout_of_a_number_of_gpus_is_named_if_it_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = plan(capsys, "--model", "deepseek-v3", "--gpus", "67", "--gpus-per-node", "67")
    assert code == 1
    assert "the only layout does not fit: dp67 takes least, " in said


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        # 682.6 B weights of 18 bytes are more than 154 GPUs have
        ("deepseek-v3 --gpus 7", "weights, gradients and optimizer alone are 11444 GiB, which needs 155 GPUs or more of 74"),
        # 8 of 1440 GiB have them, and layers do not divide evenly
        ("deepseek-v3 --gpus 8 --gpus-per-node 1 --gpu-memory 1440", "1530.4 GiB; more GPUs or more memory would do"),
        ("mini --gpus 1 --seq-length 4194304", "GiB; more GPUs, more memory or a shorter --seq-length would do"),
    ],
)
def test_what_does_not_fit_says_what_would(words: str, remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = plan(capsys, "--reserve", "0" if "1440" in words else "6", "--model", *words.split())
    assert code == 1
    assert remedy in said


def test_a_small_model_has_millions_of_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    _, said = plan(capsys, "--model", "tiny", "--gpus", "1")
    assert said.startswith("tiny: 0.41 M parameters, 0.19 M of them for a token\n1 GPU, 8 a node")


def test_a_negative_number_is_refused_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        plan(capsys, "--model", "tiny", "--gpus", "-8")
    assert "argument --gpus: '-8' is no whole number from 0" in capsys.readouterr().err


@few
@given(
    gpus=st.sampled_from([1, 2, 6, 8, 24, 64, 256]),
    layers=st.integers(1, 20),
    dense=st.integers(0, 3),
    mtp=st.integers(0, 2),
    data=st.data(),
)
def test_every_layout_that_is_tried_is_one_of_megatron_core_s(gpus: int, layers: int, dense: int, mtp: int, data: Any) -> None:
    """Its ranks are the GPUs, its degrees divide the model, and its stages hold every layer once."""
    model = replace(DEEPSEEK_V3, num_hidden_layers=layers, first_k_dense_replace=dense, num_nextn_predict_layers=mtp)
    found = list(layouts(model, gpus, 8, 4096))
    layout = data.draw(st.sampled_from(found)) if found else Layout()
    divided = split(model, layout)
    if divided is not None:
        rows = chunks(model, layout, divided)
        assert (sum(row.layers for row in rows), sum(row.mtp for row in rows)) == (layers, mtp)
        assert [row.mtp for row in rows[:-1]] == [0] * (len(rows) - 1)
        check(Full(model, layout, Options(divided)))
        assert not found or layout.ranks == gpus


@pytest.mark.parametrize(
    ("text", "short"),
    [("Etttttt|tttttttt|tttttttt|ttmmL", "Et*6|(t*8|)*2ttm*2L".replace("tt", "t*2")), ("E|t|t|L", "E|(t|)*2L"), ("EtL", "EtL")],
)
def test_a_pipeline_layout_is_written_short_and_reads_the_same(text: str, short: str) -> None:
    assert compact(text) == short
    assert parse(short) == parse(text)
