"""The same tensors under other names: what wrapped models, models with pictures and transformers 5 write."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.convert import folders
from tests.convert.folders import WITHOUT_MTP, Tensors
from validation.case.errors import UsageError
from validation.cli import main
from validation.reference.checkpoint import Checkpoint


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


def test_a_name_with_its_prefix_and_without_is_refused(tmp_path: Path) -> None:
    plain = folders.weights(WITHOUT_MTP)
    folder = folders.write(tmp_path / "hf", WITHOUT_MTP, plain | {"module.model.norm.weight": torch.ones(64)}, shards=1)
    with pytest.raises(UsageError, match=r"module.model.norm.weight and model.norm.weight are both in model.safetensors"):
        Checkpoint.open(folder)
