"""Known bugs taken out of a rank: every bug of the table can be, and a rank without one is left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from validation.candidate.mends import LATENT_EPSILON, MENDS, with_mends
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.run.known import table
from validation.run.plugin import Plugin


def case(*mended: str, **numbers: Any) -> Case:
    model = replace(TINY.model, **numbers)
    return Case("tiny", model, Layout(), "fp64", "local", "gloo", 1, 4, 2, 48, mended=mended)


def test_every_known_bug_can_be_taken_out() -> None:
    """An entry without a mend could excuse anything."""
    assert set(MENDS) == {bug.id for bug in table()}


def test_a_case_without_known_bugs_keeps_its_plugin() -> None:
    plugin = Plugin()
    assert with_mends(case(), Path("none"), plugin) is plugin


def test_a_bug_that_nobody_can_take_out_is_an_error() -> None:
    """And no silent run with the bug in it."""
    with pytest.raises(KeyError):
        with_mends(case("unheard-of"), Path("none"), Plugin())


def test_the_plugin_sees_the_model_after_the_bugs_are_gone() -> None:
    """What it puts in stays in."""
    seen: list[float] = []
    of = case("latent-norm-epsilon", rms_norm_eps=1e-5)
    plugin = with_mends(of, Path("none"), Plugin(built=lambda case, chunks: seen.append(attention.kv_layernorm.eps)))
    attention = latents(1e-5)
    plugin.built(of, [torch.nn.ModuleList([attention])])
    assert seen == [LATENT_EPSILON]


@pytest.mark.parametrize(("found", "left"), [(1e-5, LATENT_EPSILON), (1e-3, 1e-3)])
def test_an_epsilon_that_is_not_the_bugs_stays(found: float, left: float) -> None:
    """The bug is the configuration's epsilon in the latents' norms; another one is another bug."""
    of = case("latent-norm-epsilon", rms_norm_eps=1e-5)
    attention = latents(found)
    with_mends(of, Path("none"), Plugin()).built(of, [torch.nn.ModuleList([attention])])
    assert (attention.q_layernorm.eps, attention.kv_layernorm.eps) == (left, left)


def test_only_experts_go_to_the_buffers_of_expert_parallelism() -> None:
    """A shared expert is a dense layer."""
    of = case("expert-gradients-not-reduced")
    weights = {name: torch.nn.Parameter(torch.zeros(1)) for name in ("mlp.experts.local", "mlp.shared_experts.fc1", "norm")}
    chunk: Any = SimpleNamespace(named_parameters=lambda: weights.items())
    with_mends(of, Path("none"), Plugin()).built(of, [chunk])
    assert [getattr(weight, "allreduce", True) for weight in weights.values()] == [False, True, True]


def latents(epsilon: float) -> Any:
    """A module as multi-latent attention is, as far as its norms go."""
    attention: Any = torch.nn.Module()
    attention.q_layernorm, attention.kv_layernorm = (torch.nn.RMSNorm(4, eps=epsilon) for _ in range(2))
    return attention
