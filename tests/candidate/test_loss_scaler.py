"""The loss scale of a life against megatron-core's own scaler."""

from __future__ import annotations

from itertools import pairwise

import pytest
from megatron.core.optimizer.grad_scaler import DynamicGradScaler

import tests.core  # noqa: F401 - first
from validation.candidate import platform
from validation.case import life, loss_scale
from validation.compare.precision import computing_in
from validation.run.options import parsed


@pytest.mark.parametrize("hysteresis", [1, 2, 3])
def test_megatron_cores_scaler_has_the_same(hysteresis: int) -> None:
    """Over a life of many steps and skipped ones."""
    word = "step3-overflow-step-overflow-overflow-step2-overflow-step5"
    settings = f"optimizer.hysteresis={hysteresis}+optimizer.loss_scale_window=3"
    (case,) = parsed(["--layouts", f"single+{word}+{settings}", "--precision", "fp16"]).cases
    found = []
    with computing_in("fp32", platform.mode(True, "fp32")):
        scaler = DynamicGradScaler(64.0, 1.0, 2.0, 0.5, 3, hysteresis)
        for event in life.parse(word):
            found += [float(scaler.scale)] if event.kind == life.STEP else []
            scaler.update(event.kind == life.OVERFLOW)
    assert loss_scale.scales(case) == tuple(found)
    assert any(before != behind for before, behind in pairwise(found))
