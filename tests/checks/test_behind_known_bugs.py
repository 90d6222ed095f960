"""Whatever is wrong behind a known upstream bug is a failure: the bug excuses what it causes and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.conftest import Output, outputs_of

PLUGIN = Path(__file__).with_name("behind.py")
SMALL = ("--set", "num_layers=2", "--seq-length", "16", "--steps", "0")
DENSE = ("--set", "first_k_dense_replace=2")
BEHIND = {
    "balance*-1": (("--layouts", "tp2+aux"), "Layer 1 Router Logits Gradient"),
    "balance*10": (("--layouts", "single+seqaux"), "Layer 1 Router Logits Gradient"),
    "gradient=.router.*3": (("--layouts", "tp2+seqaux"), "Layer 1 Router Weight Gradient"),
    "gradient=.mlp.experts.*3": (("--layouts", "etp2"), "Layer 1 Experts Down Weight Gradient"),
    "gradient=kv_down_proj*3": (("--layouts", "tp2nosp", *DENSE), "Layer 1 KV Down Projection Weight Gradient"),
    "gradient=q_layernorm*0.5": (("--layouts", "tp2nosp", *DENSE), "Layer 1 Query Latent Norm Weight Gradient"),
    "norm*1.001": (("--layouts", "single", "--set", "rms_norm_eps=1e-5"), "Layer 0 Query after RoPE"),
    "gradient=word_embeddings*3": (
        ("--layouts", "pp2+mtp", "--set", "tie_word_embeddings=true"),
        "Embedding Weight Gradient",
    ),
}
"""What is put in, in which case, and the first check that must fail."""
SOUND = {
    "with steps": ("--layouts", "single+seqaux", "--steps", "2"),
    "dense": ("--layouts", "tp2nosp", *DENSE),
    "tied": ("--layouts", "pp2+mtp", "--set", "tie_word_embeddings=true"),
}
"""The same bugs with nothing behind them; all others are in the scorecard."""


@pytest.fixture(scope="module")
def runs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    commands = {what: [*SMALL, *words, "--plugin", f"{PLUGIN}:{what}"] for what, (words, _) in BEHIND.items()}
    sound = {f"sound {name}": [*SMALL, *words] for name, words in SOUND.items()}
    return outputs_of(commands | sound, cache, tmp_path_factory)


@pytest.mark.parametrize("what", BEHIND)
def test_a_second_error_is_seen_where_it_is(what: str, runs: dict[str, Output]) -> None:
    """Exit code 1; the first failure has the numbers of the run without the bug."""
    found, first = runs[what], BEHIND[what][1]
    assert found.code == 1
    said = next(line for line in found.text.splitlines() if line.startswith("First in "))
    assert f"FAIL: {first} - " in said


@pytest.mark.parametrize("name", SOUND)
def test_without_it_the_case_is_green_and_says_what_the_bug_hides(name: str, runs: dict[str, Output]) -> None:
    """A known bug alone fails nothing; the last lines have its size and what is left without it."""
    found = runs[f"sound {name}"]
    assert found.code == 0, found.text
    (said,) = [line for line in found.text.splitlines() if line.startswith("Known in ")]
    assert said.rpartition("without it by up to ")[2].partition("e-1")[0].replace(".", "").isdecimal()
