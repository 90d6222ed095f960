"""Public recipes, as files of flags with their source: what is read of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from validation.case import arrangement
from validation.case.preflight import RULES
from validation.case.training import Training
from validation.recipe import read, trial

KNOWN = Path(__file__).with_name("known")
OWNERS = ("Ascend", "HYGON-AI", "NVIDIA", "THUDM", "alibaba", "modelscope", "yanring")
WANTED = {
    "hygon-deepseek-v3.txt": ("tp4pp8vpp4ep64etp1dp16", 61, 256, 0, "mean", 1),
    "megatron-bridge-deepseek-v3-1024.yaml": ("tp2pp16ep64etp1", 61, 256, 1, "mean", 0),
    "megatron-lm-deepseek-proxy-fsdp.txt": ("ep2etp1", 8, 8, 0, "mean", 0),
    "megatron-lm-deepseekv3-proxy-gb200.txt": ("tp2pp2ep8etp1", 14, 64, 1, "mean", 0),
    "megatron-lm-deepseekv3-proxy-h100.txt": ("tp2pp4vpp2ep16etp1", 14, 64, 1, "mean", 0),
    "mindspeed-deepseek-v3.txt": ("tp4pp8ep32etp1dp16", 61, 256, 1, "mean", 9),
    "modelzoo-deepseek-v2-lite.txt": ("ep8etp1dp8", 27, 64, 0, "mean", 0),
    "modelzoo-deepseek-v3-h100.txt": ("tp2pp8vpp4ep64etp1dp64", 61, 256, 1, "mean", 0),
    "ms-swift-moonlight.txt": ("pp2ep4etp1dp4", None, None, None, "token", 0),
    "pai-deepseek-v3.txt": ("tp8pp8ep16etp1dp2", 61, 256, 1, "mean", 1),
    "slime-deepseek-r1.txt": ("tp8pp4ep32etp1cp4dp1", 61, 256, 0, "mean", 2),
    "slime-kimi-k2.txt": ("tp8pp8ep32etp1cp4dp1", 61, 384, 0, "mean", 2),
    "slime-moonlight.txt": ("tp4ep8etp1dp2", 27, 64, 0, "mean", 2),
}
"""File -> layout, layers, experts, MTP layers, loss, and how many flags are not known."""


def test_every_file_is_read_and_names_its_source() -> None:
    """Repository and commit, in the comment at the top."""
    assert sorted(path.name for path in KNOWN.iterdir()) == sorted(WANTED)
    for path in KNOWN.iterdir():
        head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
        assert any(owner in head for owner in OWNERS), path.name
        assert any(len(word.strip(".,:")) == 40 for word in head.split()), path.name


@pytest.mark.parametrize("name", WANTED)
def test_what_a_public_recipe_trains(name: str) -> None:
    """Layout, model, loss, and the number of flags that nobody knows."""
    recipe = read.read(KNOWN / name, "main" if "proxy" in name else "0.16.1")
    numbers = ("num_hidden_layers", "n_routed_experts", "num_nextn_predict_layers")
    said = tuple(recipe.model.get(number) for number in numbers)
    assert (recipe.layout.name, *said, recipe.loss, len(recipe.unknown)) == WANTED[name]


@pytest.mark.parametrize("name", [name for name, wanted in WANTED.items() if wanted[1]])
def test_a_public_recipe_has_a_stand_in(name: str) -> None:
    """Of at most sixteen ranks, and the case's name says the same step again: a failure is reproduced by it."""
    tried = trial.of(read.read(KNOWN / name, "0.16.1"))
    assert "stand-in:" in tried.small.describe()
    written = arrangement.written(tried.small.layout, tried.training, None)
    assert arrangement.parse(written, Training())[:2] == (tried.small.layout, tried.training)


def test_deepseek_v3_in_fp8_is_compared_in_fp8() -> None:
    """With Transformer Engine: format, recipe and the padding of experts' tokens, in a case that no rule refuses."""
    place = trial.Place("te", "staged")
    tried = trial.of(read.read(KNOWN / "modelzoo-deepseek-v3-h100.txt", "0.16.1"), place)
    assert {"model.fp8", "model.fp8_recipe", "model.moe_router_padding_for_fp8"} <= {one.setting.name for one in tried.tried}
    case = replace(place.case(tried.small, tried.recipe), training=tried.training)
    assert (case.training.fp8, [rule(case) for rule in RULES if rule(case)]) == ("blockwise", [])


def test_nvidias_proxy_trains_mtp_with_balancing_and_the_mean() -> None:
    """The combination that no case could express."""
    values = read.read(KNOWN / "megatron-lm-deepseekv3-proxy-h100.txt", "main").values
    assert values["model.mtp_num_layers"] == 1
    assert values["model.moe_router_load_balancing_type"] == "seq_aux_loss"
    assert values.get("model.calculate_per_token_loss", False) is False
    assert values["model.cross_entropy_fusion_impl"] == "native"
