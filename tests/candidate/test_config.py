"""From a case to megatron-core's configuration."""

from __future__ import annotations

from typing import Any

import pytest
from megatron.core.transformer import transformer_config as core

from validation.candidate.config import transformer_config
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import MINI
from validation.case.training import Training


@pytest.mark.parametrize(
    ("fp8", "wanted"), [("none", (None, "delayed")), ("delayed", ("hybrid", "delayed")), ("blockwise", ("e4m3", "blockwise"))]
)
def test_fp8_is_megatron_cores_own(monkeypatch: pytest.MonkeyPatch, fp8: str, wanted: Any) -> None:
    """Weights stay in bf16: they are compared exactly."""
    monkeypatch.setattr(core, "is_te_min_version", lambda *given, **more: True)
    training = Training(fp8=fp8)
    case = Case("mini", MINI.model, Layout.parse("tp2"), "bf16", "te", "staged", 1, 2, 1, 512, training=training)
    made = transformer_config(case)
    assert (made.fp8, made.fp8_recipe) == wanted
    assert not made.fp8_param
    assert not made.fp8_dot_product_attention
