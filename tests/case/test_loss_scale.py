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


def test_no_other_precision_scales_its_loss() -> None:
    (found,) = parsed(["--layouts", "single", "--precision", "bf16", "--steps", "2"]).cases
    assert loss_scale.first(found) == 1.0
    assert loss_scale.first(case("single", "--steps", "0")) == 1.0
