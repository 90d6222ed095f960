"""What is converted and converted back is the same model: transformers' own class computes the same logits, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.reference.published_families import CONFIGS
from validation.case.families import described
from validation.cli import main
from validation.reference.as_read import Parts

TOKENS = torch.tensor([[3, 7, 31, 0, 12, 5, 5, 9, 30, 2, 1, 4]])


def published(name: str, folder: Path) -> Parts:
    """A folder of the family, saved by transformers, with config.json as it is published; its classes."""
    found = described(CONFIGS[name], "here")
    parts = Parts(found.family)
    kind = parts.of("modeling", "ForCausalLM")
    torch.manual_seed(5)
    model = kind(parts.config(found.config)).bfloat16()
    with torch.no_grad():
        for key, tensor in model.state_dict(keep_vars=True).items():
            tensor.copy_(torch.randn(tensor.shape) * 0.3 + (1.0 if "norm" in key else 0.0))
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**found.config, "num_nextn_predict_layers": 0}), encoding="utf-8")
    return parts


def logits(parts: Parts, folder: Path) -> torch.Tensor:
    """Of the class, loaded from the folder, in float32; nothing may be missing or left over.

    Kimi-K2's model_type is unknown to transformers, which needs to be told that it is DeepSeek-V3's.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    told_kind = {"config": parts.config(config)} if config["model_type"] == "kimi_k2" else {}
    asked = {"output_loading_info": True, "dtype": torch.float32, "attn_implementation": "eager", **told_kind}
    model, told = parts.of("modeling", "ForCausalLM").from_pretrained(folder, **asked)
    assert (list(told["missing_keys"]), list(told["unexpected_keys"])) == ([], [])
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=TOKENS, use_cache=False).logits
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_computes_the_same_of_what_comes_back(name: str, tmp_path: Path) -> None:
    parts = published(name, tmp_path / "hf")
    for words in (["--hf-model-path", "hf", "--save", "core"], ["--to-hf", "--load", "core", "--save", "back"]):
        paths = [word if word.startswith("--") else str(tmp_path / word) for word in words]
        assert main(["convert", *paths, "--jobs", "1"]) == 0
    before = logits(parts, tmp_path / "hf")
    assert before.abs().max() > 0.1
    assert torch.equal(before, logits(parts, tmp_path / "back"))
