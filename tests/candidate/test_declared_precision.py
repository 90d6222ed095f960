"""Which dtypes a rank may report, by the settings of its case."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from tests import core  # noqa: F401 - before megatron-core
from validation.candidate.compare import _compare_with_master, declared
from validation.candidate.recorder import Recorder
from validation.candidate.weights import Holding
from validation.compare.rounded import half_of
from validation.run.options import parsed

FACTS = {
    "dtypes": {"layers.1.moe.router.logits": "float32", "layers.1.moe.router.scores": "float32", "layers.1.output": "bfloat16"}
}


def test_a_router_in_fp64_reports_fp64() -> None:
    """What is not the router's stays as it was declared."""
    (case,) = parsed(["--layouts", "single+moe_router_dtype=fp64", "--precision", "bf16"]).cases
    assert declared(case, FACTS)["dtypes"] == {**FACTS["dtypes"], "layers.1.moe.router.logits": "float64"}
    (plain,) = parsed(["--layouts", "single", "--precision", "bf16"]).cases
    assert declared(plain, FACTS)["dtypes"] == FACTS["dtypes"]
    assert declared(case, {}) == {}


def test_losses_and_the_router_hold_more_than_half() -> None:
    (case,) = parsed(["--layouts", "single+mtp", "--precision", "bf16"]).cases
    router = {"layers.1.moe.router.logits", "layers.1.moe.router.scores"}
    losses = {"token_loss": "float32", "mtp.0.token_loss": "float32", "loss": "float32"}
    found = declared(case, {"dtypes": FACTS["dtypes"] | losses})["unrounded"]
    assert found == {*router, "token_loss", "mtp.0.token_loss"}


KEPT = {f"steps/1/{kind}/model.norm.weight": "float32" for kind in ("exp_avg", "exp_avg_sq", "master", "momentum_buffer")}


@pytest.mark.parametrize(
    ("word", "kinds"),
    [
        ("optimizer.lr=0.001", ["exp_avg", "exp_avg_sq", "master"]),
        ("optimizer.adam_beta1=0.5", ["exp_avg_sq", "master"]),
        ("distributed+optimizer.use_precision_aware_optimizer+optimizer.exp_avg_sq_dtype=bfloat16", ["exp_avg", "master"]),
        ("optimizer.optimizer=sgd", []),
    ],
)
def test_what_is_kept_in_float32_holds_more_than_half(word: str, kinds: list[str]) -> None:
    (case,) = parsed(["--layouts", f"single+{word}", "--precision", "bf16", "--steps", "2"]).cases
    assert {name.split("/")[2] for name in declared(case, {"dtypes": KEPT})["unrounded"]} == set(kinds)


@pytest.mark.parametrize(("dtype", "said"), [(torch.bfloat16, "bfloat16"), (torch.float16, "float16"), (torch.float32, None)])
def test_numbers_of_half_precision_are_seen_in_float32(dtype: torch.dtype, said: str | None) -> None:
    """Unless the truth has no others: then nothing was rounded. One element that is another is enough."""
    truth = torch.linspace(1.0, 2.0, 101, dtype=torch.float64)
    found = truth.to(dtype).to(torch.float32)
    assert half_of(found, truth) == said
    assert half_of(found, found.double()) is None
    assert half_of(torch.cat([found[1:], torch.tensor([1 / 3])]), truth) is None


@pytest.mark.parametrize("number", [0.0, 1.5])
def test_one_number_everywhere_is_not_what_rounding_leaves(number: float) -> None:
    """As where upstream reads memory that it has freed, behind a known bug: the values say it."""
    truth = torch.linspace(1.0, 2.0, 101, dtype=torch.float64)
    assert half_of(torch.full((101,), number), truth) is None


@pytest.mark.parametrize(("others", "said"), [(8, "bfloat16"), (7, None)])
def test_few_numbers_that_need_more_bits_may_be_lost_by_chance(others: int, said: str | None) -> None:
    truth = torch.ones(100, dtype=torch.float64) + torch.arange(100) / 128
    truth[:others] += 2**-20
    assert half_of(truth.to(torch.bfloat16).to(torch.float32), truth) == said


@pytest.mark.parametrize(("kept", "said"), [(50, "bfloat16"), (49, None)])
def test_half_of_the_numbers_of_a_rounded_truth_are_enough(kept: int, said: str | None) -> None:
    """The others, of which there are many, do not count: each is one of these when it is rounded."""
    near = 1 + torch.arange(100, dtype=torch.float64) / 128
    found = near.clone()
    found[kept:] = near[kept - 1]
    truth = torch.cat([near + 2**-12, near + 2**-13, near + 2**-14])
    assert half_of(found.repeat(3).to(torch.float32), truth) == said


@pytest.mark.parametrize(("moved", "count"), [(0.0, 0), (2**-7, 1)])
def test_a_weight_is_its_master_rounded_to_nearest(moved: float, count: int) -> None:
    """Of a half, which lies between two numbers, either will do."""
    half = 1 + 2**-8
    weight, master = torch.tensor([1.0, half + 2**-8, 1.0 + moved]).bfloat16(), torch.tensor([half, half, 1.0])
    part, recorder = SimpleNamespace(parameter=SimpleNamespace(name="x"), of=lambda tensor: tensor), Recorder(0)
    _compare_with_master(1, weight, master, [cast(Holding, part)], recorder)
    said = "1 element is not what bfloat16 makes of the master"
    assert recorder.problems == ({"steps/1/value/x": said} if count else {})
