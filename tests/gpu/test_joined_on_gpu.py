"""Transformer Engine's layers with more in one module: what is sound passes, and a defect inside is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.commands import run
from tests.gpu.conftest import needs_gpu
from validation.case import declared
from validation.machine import ABSENT, version

pytestmark = [
    pytest.mark.gpu,
    needs_gpu,
    pytest.mark.skipif(version("transformer-engine") == ABSENT, reason="needs Transformer Engine"),
    pytest.mark.skipif("model.mla_down_proj_fusion" not in declared.here(), reason="megatron-core joins them since 0.17"),
]
LATENTS, RESIDUAL = "single+mla_down_proj_fusion", "single+fused_residual_rmsnorm"
PLUGIN = Path(__file__).with_name("joined.py")
TE = (
    "--implementation",
    "te",
    "--transport",
    "nccl",
    "--precision",
    "bf16",
    "--set",
    "num_hidden_layers=2",
    "--seq-length",
    "64",
)


def test_sound_modules_pass(tmp_path: Path) -> None:
    """Forward, backward and two steps, with the norm inside of the projection and the residual out of the norm."""
    done = run(tmp_path, *TE, "--steps", "2", "--layouts", f"{LATENTS},{RESIDUAL}")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("defect", "layout", "said"),
    [
        ("swapped", LATENTS, "Layer 0 Query Latent"),
        ("epsilon", LATENTS, "Layer 0 Query Latent"),
        ("lost", RESIDUAL, "Gradient"),
    ],
)
def test_a_defect_inside_of_a_module_is_seen(tmp_path: Path, defect: str, layout: str, said: str) -> None:
    done = run(tmp_path, *TE, "--steps", "0", "--layouts", layout, "--plugin", f"{PLUGIN}:{defect}")
    assert done.returncode == 1, done.stdout
    first = next(line for line in done.stdout.splitlines() if line.startswith("First in "))
    assert f"FAIL: {said}" in first or (said == "Gradient" and said in first), first
