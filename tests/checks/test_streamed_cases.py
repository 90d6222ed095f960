"""Layer by layer, for real: right models pass in every layout that has one stage, wrong ones fail where they are wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.checks.conftest import BROKEN, LAYERS, Output, command, outputs_of, warm

SHARED = ["--set", f"num_layers={LAYERS}", "--stream"]
SHRUNKEN = (
    *("hidden_size=64", "num_attention_heads=4", "q_lora_rank=24", "kv_lora_rank=16", "qk_nope_head_dim=16"),
    *("qk_rope_head_dim=32", "v_head_dim=16", "n_routed_experts=16", "moe_intermediate_size=32", "intermediate_size=96"),
    "vocab_size=128",
)
"""The layers of v3-layers as narrow as those of tiny."""


WRONG = {
    "yarn_scale_dropped": ("single", "Layer 0 Core Attention Output"),
    "expert_gradients_over_the_wrong_group": ("ep2", "Layer 1 Experts Down Weight Gradient"),
}
"""Defects of broken_specs, the layout that shows them, and the first tensor that is wrong at once, too."""
V3 = ["--preset", "v3-layers", *(word for number in SHRUNKEN for word in ("--set", number)), "--seq-length", "64"]
COMMANDS = {
    "streamed": [*SHARED, "--layouts", "single+documents,tp2ep2+packed-padded,cp2+packed-padded"],
    "at once": [*SHARED[:2], "--layouts", "single", "--steps", "0"],
    "v3-layers": [*V3, "--precision", "bf16", "--layouts", "single,ep2"],
    **{
        defect: [*SHARED, "--layouts", layout, "--implementation", f"{BROKEN}:{defect}"]
        for defect, (layout, _) in WRONG.items()
    },
}


@pytest.fixture(scope="module")
def runs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """Each command's output."""
    return outputs_of(COMMANDS, cache, tmp_path_factory)


def checks(text: str) -> int:
    (count,) = re.findall(r"Overall result: \w+ \((?:\d+ cases, )?(\d+) checks", text)
    return int(count)


def test_every_check_of_a_right_model_passes(runs: dict[str, Output]) -> None:
    """As many as at once, to rounding, over tensor, expert and context parallel ranks, with data of other shapes."""
    found = runs["streamed"]
    assert found.code == 0, found.text[-2000:]
    assert all(float(error) < 1e-13 for error in re.findall(r"relative ([\d.e-]+)\)", found.text))
    assert checks(found.text) == 3 * checks(runs["at once"].text)
    assert len(re.findall(r"Layer 1 Experts Gate Weight Gradient - Max diff: [\d.]+e-", found.text)) == 3


@pytest.mark.parametrize("defect", WRONG)
def test_a_wrong_model_fails_where_it_is_wrong(defect: str, runs: dict[str, Output]) -> None:
    """The same first tensor as at once."""
    found, (layout, first) = runs[defect], WRONG[defect]
    assert found.code == 1, found.text[-2000:]
    assert re.search(rf"^First in {layout}\+stream: FAIL: {first} - ", found.text, re.MULTILINE), found.text[-1500:]


def test_the_layers_of_deepseek_v3_pass_in_bf16(runs: dict[str, Output]) -> None:
    """The preset's own way, shrunken: layer by layer without being asked for, weights from the seed, truth in fp32."""
    found = runs["v3-layers"]
    assert found.code == 0, found.text[-2000:]
    ratios = [float(number) for number in re.findall(r"\(([\d.e+-]+)x floor\)", found.text)]
    assert len(ratios) > 180
    assert 0.3 < max(ratios) <= 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with 141 GB")
def test_the_layers_of_deepseek_v3_pass_at_their_size(cache: Path, tmp_path: Path) -> None:
    """On one card, in bf16."""
    words = ["--preset", "v3-layers", "--precision", "bf16", "--transport", "nccl", "--layouts", "single"]
    done = command(["run", "-v", *words, "--results", str(tmp_path)], cache)
    assert done.returncode == 0, done.stdout[-2000:]


def test_what_needs_all_layers_at_once_is_refused(cache: Path) -> None:
    """Before anything starts."""
    done = warm(["run", *SHARED, "--layouts", "pp2"], cache)
    assert (done.returncode, "--stream has no pipeline stages" in done.stderr) == (2, True), done.stderr
