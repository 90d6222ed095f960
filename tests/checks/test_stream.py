"""Layer by layer, for real: right models pass in every layout that has one stage, wrong ones fail where they are wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.checks.conftest import BROKEN, LAYERS, Output, command

SHARED = ["--set", f"num_layers={LAYERS}", "--stream"]
SHRUNKEN = (
    *("hidden_size=64", "num_attention_heads=4", "q_lora_rank=24", "kv_lora_rank=16", "qk_nope_head_dim=16"),
    *("qk_rope_head_dim=32", "v_head_dim=16", "n_routed_experts=16", "moe_intermediate_size=32", "intermediate_size=96"),
    "vocab_size=128",
)
"""The layers of v3-layers as narrow as those of tiny."""


def run(words: list[str], cache: Path, results: Path) -> Output:
    done = command(["run", *words, "--results", str(results)], cache)
    return Output(done.returncode, done.stdout + done.stderr, results)


def checks(text: str) -> int:
    (count,) = re.findall(r"Overall result: \w+ \((?:\d+ cases, )?(\d+) checks", text)
    return int(count)


def test_every_check_of_a_right_model_passes(cache: Path, tmp_path: Path) -> None:
    """As many as at once, to rounding, over tensor, expert and context parallel ranks."""
    layouts = ["--layouts", "single,tp2,tp2ep2,cp2"]
    found = run([*SHARED, *layouts], cache, tmp_path)
    assert found.code == 0, found.text[-2000:]
    assert all(float(error) < 1e-13 for error in re.findall(r"relative ([\d.e-]+)\)", found.text))
    at_once = run([*SHARED[:2], "--layouts", "single", "--steps", "0"], cache, tmp_path)
    assert checks(found.text) == 4 * checks(at_once.text)
    assert len(re.findall(r"Layer 1 Experts Gate Weight Gradient - Max diff: [\d.]+e-", found.text)) == 4


@pytest.mark.parametrize(
    ("defect", "layout", "first"),
    [
        ("yarn_scale_dropped", "single", "Layer 0 Core Attention Output"),
        ("expert_gradients_over_the_wrong_group", "ep2", "Layer 1 Experts Down Weight Gradient"),
    ],
)
def test_a_wrong_model_fails_where_it_is_wrong(defect: str, layout: str, first: str, cache: Path, tmp_path: Path) -> None:
    """The same first tensor as at once."""
    found = run([*SHARED, "--layouts", layout, "--implementation", f"{BROKEN}:{defect}"], cache, tmp_path)
    assert found.code == 1, found.text[-2000:]
    assert re.search(rf"^First in {layout}\+stream: FAIL: {first} - ", found.text, re.MULTILINE), found.text[-1500:]


def test_the_layers_of_deepseek_v3_pass_in_bf16(cache: Path, tmp_path: Path) -> None:
    """The preset's own way, shrunken: layer by layer without being asked for, weights from the seed, truth in fp32."""
    numbers = [word for number in SHRUNKEN for word in ("--set", number)]
    words = ["--preset", "v3-layers", *numbers, "--seq-length", "64", "--precision", "bf16", "--layouts", "single,ep2"]
    found = run(words, cache, tmp_path)
    assert found.code == 0, found.text[-2000:]
    ratios = [float(number) for number in re.findall(r"\(([\d.e+-]+)x floor\)", found.text)]
    assert len(ratios) > 200
    assert 0.3 < max(ratios) <= 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with 141 GB")
def test_the_layers_of_deepseek_v3_pass_at_their_size(cache: Path, tmp_path: Path) -> None:
    """On one card, in bf16."""
    words = ["--preset", "v3-layers", "--precision", "bf16", "--transport", "nccl", "--layouts", "single"]
    found = run(words, cache, tmp_path)
    assert found.code == 0, found.text[-2000:]


def test_what_needs_all_layers_at_once_is_refused(cache: Path, tmp_path: Path) -> None:
    """Before anything starts."""
    found = run([*SHARED, "--layouts", "pp2"], cache, tmp_path)
    assert (found.code, "--stream has no pipeline stages" in found.text) == (2, True), found.text
