"""The epsilon of the latent norms: one check shows that Megatron-Core has another than transformers; all else is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.conftest import BROKEN, LAYERS, Output, outputs_of

SHARED = ["--set", f"num_layers={LAYERS}", "--set", "rms_norm_eps=1e-2", "--steps", "0", "--layouts"]
COMMANDS = {
    "local": [*SHARED, "tp2"],
    "local-stock": [*SHARED, "single", "--implementation", "local-stock"],
    "fp32": [*SHARED, "single+mtp", "--precision", "fp32", "--set", "q_lora_rank=none"],
    "streamed": [*SHARED, "single+stream"],
    "isolated": [*SHARED, "single", "--isolated"],
    "own": [*SHARED, "single", "--implementation", f"{BROKEN}:layers"],
    "as transformers": [*SHARED, "single", "--implementation", f"{BROKEN}:huggingface_latent_norms"],
    "wrong": [*SHARED, "single", "--implementation", f"{BROKEN}:other_latent_norms"],
}
SOUND = ["local", "local-stock", "fp32", "streamed", "isolated", "own"]


@pytest.fixture(scope="module")
def runs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """Each command's output."""
    return outputs_of(COMMANDS, cache, tmp_path_factory)


@pytest.mark.parametrize("name", SOUND)
def test_one_check_stands_for_it_and_no_other_is_excused(name: str, runs: dict[str, Output]) -> None:
    """A hundred checks and more behind the norms pass at their own limits: the candidate has the reference's epsilon."""
    found = runs[name]
    assert found.code == 0, found.text[-2000:]
    assert found.titles("KNOWN") == ["Latent Norm Epsilon"]
    assert {"Layer 0 Value", f"Layer {LAYERS - 1} Layer Output", "Logits"} < {*found.titles("PASS")}
    assert "known upstream bug: the norms of the query and KV latents" in found.text


def test_a_spec_with_transformers_epsilon_passes_and_nothing_is_excused(runs: dict[str, Output]) -> None:
    """A user's own norms are none of upstream's."""
    assert runs["as transformers"].code == 0, runs["as transformers"].text[-2000:]
    assert runs["as transformers"].titles("KNOWN") == []
    assert "Latent Norm Epsilon" in runs["as transformers"].titles("PASS")


def test_any_other_epsilon_stays_and_fails(runs: dict[str, Output]) -> None:
    """The known difference makes the model's epsilon and no other value."""
    found = runs["wrong"]
    assert found.code == 1
    assert found.titles("KNOWN") == []
    assert {"Latent Norm Epsilon", "Layer 0 Value"} < {*found.titles("FAIL")}
