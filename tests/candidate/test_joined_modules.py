"""Modules that join more: what a case can see of them, what refuses them, and hooks that upstream hands on."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tests.core  # noqa: F401 - before megatron-core
from validation.candidate.probes import ProbedChunk
from validation.case import declared
from validation.case.case import Case
from validation.case.joined_latents import can_be_joined
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.probes import observed
from validation.case.training import Training
from validation.checks.marks import members

JOINED = Training().with_settings({"model.mla_down_proj_fusion": True})
FUSED = "TEFusedResidualRMSNorm"


def case(implementation: str, training: Training = JOINED, **numbers: Any) -> Case:
    model = replace(TINY.model, **numbers)
    return Case("tiny", model, Layout(), "bf16", implementation, "nccl", 1, 2, 1, 8, training=training)


def test_the_norm_within_a_projection_is_no_check() -> None:
    """Both latents are: only what Transformer Engine makes of the norm is never a tensor."""
    apart, local, joined = (observed(one) for one in (case("te", Training()), case("local"), case("te")))
    norms = {f"layers.{layer}.input_norm" for layer in TINY.model.blocks}
    assert norms <= set(apart) & set(local)
    assert set(apart) - set(joined) == norms
    assert members("input_norm_layers", case("te")) == []
    assert members("input_norm_layers", case("local")) == list(TINY.model.blocks)


@pytest.mark.parametrize(
    ("implementation", "numbers", "said"),
    [
        ("te", {"q_lora_rank": None}, "this model has no q_lora_rank"),
        ("te", {"index_topk": 8, "index_n_heads": 2, "index_head_dim": 32}, "this model's is sparse"),
        ("local-stock", {}, "is not read by Megatron-Core's own local spec"),
    ],
)
def test_what_nothing_would_join_is_refused(implementation: str, numbers: dict[str, Any], said: str) -> None:
    assert said in (can_be_joined(case(implementation, **numbers)) or "")
    assert can_be_joined(case(implementation, Training(), **numbers)) is None


def _of_upstream() -> Any:
    """megatron-core's norm that hands the residual on, over operations that stand for Transformer Engine's."""
    spec = importlib.util.find_spec("megatron.core.extensions.transformer_engine")
    assert spec is not None
    tree = ast.parse(Path(str(spec.origin)).read_text(encoding="utf-8"))
    (found,) = (one for one in ast.walk(tree) if isinstance(one, ast.ClassDef) and one.name == FUSED)
    names = {"te": SimpleNamespace(pytorch=_engine()), "torch": torch, "inspect": inspect, "warnings": warnings}
    exec(compile(ast.Module([_postponed(), found], []), str(spec.origin), "exec"), names)
    return names[FUSED]


def _postponed() -> ast.stmt:
    return ast.parse("from __future__ import annotations").body[0]


def _engine() -> SimpleNamespace:
    class Norm(torch.nn.RMSNorm):
        zero_centered_gamma = False

        def __init__(self, shape: Any, eps: float = 1e-6, **_: Any) -> None:
            super().__init__(shape, eps)

    class Sequential(torch.nn.ModuleList):
        def forward(self, hidden: torch.Tensor) -> Any:
            return self[1](hidden), hidden

    return SimpleNamespace(
        RMSNorm=Norm, ops=SimpleNamespace(Sequential=Sequential, MakeExtraOutput=torch.nn.Identity, RMSNorm=Norm)
    )


@pytest.mark.skipif("model.fused_residual_rmsnorm" not in declared.here(), reason="megatron-core has it since 0.17")
@pytest.mark.filterwarnings("ignore:TEFusedResidualRMSNorm")
def test_a_norm_that_hands_its_hooks_on_is_seen_once() -> None:
    """What it computes with calls them, too, and gives them nothing."""
    seen: list[torch.Tensor] = []

    def record(name: str, tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor)
        return 2 * tensor

    norm, hidden = _of_upstream()(4), torch.randn(3, 4)
    norm.register_forward_hook(ProbedChunk._output(SimpleNamespace(_record=record), "norm"))  # type: ignore[arg-type]
    normed, residual = norm(hidden)
    wanted = torch.nn.functional.rms_norm(hidden, (4,), norm.weight, norm.eps)
    assert len(seen) == 1
    assert torch.equal(seen[0], wanted)
    assert torch.equal(normed, 2 * wanted)
    assert torch.equal(residual, hidden)
