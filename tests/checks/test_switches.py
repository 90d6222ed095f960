"""Switches that people train with: what is sound passes, what is broken is seen, and upstream's bugs are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import junit
from tests.checks.conftest import Output, outputs_of
from validation.case import covered, declared

LAZY = "distributed+ddp.overlap_grad_reduce+ddp.overlap_param_gather"
SMALL = ("--set", "num_layers=2", "--seq-length", "16")
SOUND = (
    f"dp2+{LAZY}",
    "single+moe_shared_expert_overlap",
    "tp2+moe_shared_expert_overlap",
    "pp2vpp2+pipeline_model_parallel_layout=Et|t||L",
    "pp3+mtp+pipeline_model_parallel_layout=Ett|m|L",
    "ep2+bias_activation_fusion+bias_dropout_fusion+moe_aux_loss_coeff=0.02",
    "ep2+overlap_moe_expert_parallel_comm",
)
KNOWN = {
    "single+cross_entropy_loss_fusion": "fused-cross-entropy-in-bf16",
    "single+moe_expert_capacity_factor=4+moe_pad_expert_input_to_capacity": "loads-counted-after-capacity",
}
if "model.mla_down_proj_fusion" in declared.here():  # since 0.17
    KNOWN["tp2+mla_down_proj_fusion"] = "shared-rope-key-not-reduced"
ISOLATED = "ep2+moe_shared_expert_overlap"
RECIPE = """
--num-layers 4 --hidden-size 256 --ffn-hidden-size 512 --num-attention-heads 4 --multi-latent-attention
--kv-lora-rank 64 --qk-head-dim 32 --qk-pos-emb-head-dim 16 --v-head-dim 32 --qk-layernorm --norm-epsilon 1e-6
--swiglu --normalization RMSNorm --disable-bias-linear --untie-embeddings-and-output-weights --position-embedding-type rope
--num-experts 8 --moe-router-topk 2 --moe-ffn-hidden-size 128 --moe-shared-expert-intermediate-size 128
--moe-layer-freq ([0]*1+[1]*3) --moe-router-score-function sigmoid --moe-router-enable-expert-bias
--expert-model-parallel-size 2 --use-distributed-optimizer --overlap-grad-reduce --moe-permute-fusion
--seq-length 128 --micro-batch-size 1 --global-batch-size 8 --bf16 --lr 1e-3 --train-iters 10
--attention-dropout 0 --hidden-dropout 0 --vocab-size 1000 --max-position-embeddings 4096
"""
UNGATHERED = Path(__file__).with_name("ungathered.py")
REPLAY = Path(__file__).with_name("replayed.py")


@pytest.fixture(scope="module")
def runs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    commands = {
        "sound": ["--layouts", ",".join((*SOUND, *KNOWN))],
        "isolated": ["--layouts", ISOLATED, "--isolated"],
        "ungathered": ["--layouts", f"dp2+{LAZY}", "--plugin", str(UNGATHERED)],
        "replayed": ["--layouts", "single", "--steps", "0", "--plugin", str(REPLAY)],
    }
    recipe = tmp_path_factory.mktemp("recipe") / "flags.txt"
    recipe.write_text(RECIPE, encoding="utf-8")
    every = {name: [*SMALL, *words] for name, words in commands.items()}
    every["recipe"] = ["--recipe", str(recipe), "--world-size", "2", "--precision", "fp64"]
    return outputs_of(every, cache, tmp_path_factory)


def test_sound_switches_pass_and_bugs_of_upstreams_are_known(runs: dict[str, Output]) -> None:
    """Gathered behind the next forward pass, added inside of combine, filled up to a capacity: no false alarm."""
    found = runs["sound"]
    assert found.code == 0, found.text
    said = [line for line in found.text.splitlines() if line.startswith("Known in ")]
    assert len(said) == len(KNOWN)
    assert all(any(bug in line for line in said) for bug in KNOWN.values())


def test_an_overlapped_shared_expert_stands_alone(runs: dict[str, Output]) -> None:
    """Isolated, both summands of the layer's output are the reference's."""
    assert runs["isolated"].code == 0, runs["isolated"].text


def test_parameters_that_nobody_gathers_are_seen(runs: dict[str, Output]) -> None:
    """The lazy path is the one that is compared: nothing is gathered for the sake of the comparison."""
    found = runs["ungathered"]
    assert found.code == 1
    said = next(line for line in found.text.splitlines() if line.startswith("First in "))
    assert "FAIL: Step 1 " in said


def test_the_choice_that_counts_is_the_one_that_the_layer_uses(runs: dict[str, Output]) -> None:
    """The router's own topk is right, and the layer goes on with another layer's experts."""
    found = runs["replayed"]
    assert found.code == 1
    said = next(line for line in found.text.splitlines() if line.startswith("First in "))
    assert "FAIL: Layer 1 Router Output" in said
    assert "0 of " not in said


def test_a_recipe_ends_with_what_became_of_its_settings(runs: dict[str, Output]) -> None:
    """Its stand-in passes; the terminal and JUnit say how much of it was compared."""
    found = runs["recipe"]
    assert found.code == 0, found.text
    said = next(line for line in found.text.splitlines() if line.startswith("Recipe flags.txt: "))
    assert " equal, " in said
    assert "model.moe_permute_fusion=true" in found.text
    (path,) = found.results.glob("*.xml")
    suite = junit.read(path)
    assert suite.properties["recipe"] == "flags.txt"
    assert suite.properties["coverage"] in said
    assert "needs" in {word.word for word in covered.read(suite.properties).values()}
