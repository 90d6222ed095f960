"""The loss scale of each step, by hand from the rule."""

from __future__ import annotations

import pytest

from validation.case import loss_scale
from validation.case.case import Case
from validation.run.options import parsed


def case(layout: str, *words: str) -> Case:
    (found,) = parsed(["--layouts", layout, "--precision", "fp16", *words]).cases
    return found


@pytest.mark.parametrize(
    ("layout", "scales"),
    [
        ("single+step4-evaluate-step", (64, 64, 128, 128, 256)),
        ("single+step-overflow-step3", (64, 32, 32, 64)),
        ("single+step-overflow-overflow-step", (64, 16)),
        ("single+step-overflow-step2-overflow-step+optimizer.hysteresis=2", (64, 64, 64, 128)),
        ("single+step-overflow-step-overflow-step+optimizer.hysteresis=2", (64, 64, 32)),
        ("single+step-overflow-step3+optimizer.loss_scale=8", (8, 8, 8, 8)),
        ("single+step-overflow-step+optimizer.min_loss_scale=48", (64, 48)),
    ],
)
def test_the_scale_of_each_step(layout: str, scales: tuple[int, ...]) -> None:
    assert loss_scale.scales(case(layout)) == scales


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("loss_scale=-1", "loss_scale is -1; it must be a number greater than 0"),
        ("initial_loss_scale=0", "initial_loss_scale is 0; it must be a number greater than 0"),
        ("initial_loss_scale=inf", "initial_loss_scale is inf; it must be a number greater than 0"),
        ("min_loss_scale=0", "min_loss_scale is 0; it must be a number greater than 0"),
        ("min_loss_scale=128", "initial_loss_scale 64 is less than optimizer.min_loss_scale 128"),
        ("loss_scale_window=1.5", "loss_scale_window is 1.5; it must be a whole number of at least 1"),
        ("hysteresis=0", "hysteresis is 0; it must be a whole number of at least 1"),
    ],
)
def test_a_scale_that_megatron_core_cannot_build_is_refused(setting: str, sentence: str) -> None:
    said = loss_scale.scales_can_be_divided_by(case("single", "--steps", "1", "--config", f"optimizer.{setting}"))
    assert said is not None
    assert sentence in said


def test_a_scale_of_nought_is_none_and_other_precisions_have_no_rule() -> None:
    assert loss_scale.scales_can_be_divided_by(case("single", "--steps", "1", "--config", "optimizer.loss_scale=0")) is None
    words = ["--layouts", "single", "--steps", "1", "--config", "optimizer.hysteresis=0"]
    (found,) = parsed(words).cases
    assert loss_scale.scales_can_be_divided_by(found) is None


def test_no_other_precision_scales_its_loss() -> None:
    (found,) = parsed(["--layouts", "single", "--precision", "bf16", "--steps", "2"]).cases
    assert loss_scale.first(found) == 1.0
    assert loss_scale.first(case("single", "--steps", "0")) == 1.0
