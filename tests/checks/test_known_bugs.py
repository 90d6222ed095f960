"""Known upstream bugs: expected where they are known, and nothing else is excused by them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.case.probes import observed
from validation.checks.parity import Parity
from validation.compare.difference import measure
from validation.compare.measurement import PieceReport
from validation.compare.piece import whole
from validation.run.known import known_bugs, table
from validation.run.result import Result

PARAMETER = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"


def case(implementation: str = "local-stock", layout: str = "tp2") -> Case:
    return Case("tiny", TINY.model, Layout.parse(layout), "fp64", implementation, "gloo", 1, 4, 2, 48)


class Runs:
    """One result, and no other run to be had."""

    def __init__(self, result: Result) -> None:
        self._result = result

    def result(self, case: Case) -> Result:
        """The one."""
        return self._result

    def against_single(self, case: Case) -> Result | None:
        """None."""
        return None


def concluded(candidate: torch.Tensor, reference: torch.Tensor, of: Case) -> Any:
    """The verdict on the gradient of PARAMETER where one rank reports this candidate."""
    box = whole(reference.shape)
    report = PieceReport(0, box, measure(candidate, reference, box), "")
    parity = Parity(of, Runs(Result(of, 1.0, {}, pieces={f"gradients/{PARAMETER}": (report,)})))
    try:
        parity.gradient_agrees(PARAMETER)
    except (pytest.fail.Exception, pytest.xfail.Exception) as outcome:
        return parity.verdict, type(outcome)
    return parity.verdict, None


@pytest.fixture
def gradient() -> torch.Tensor:
    shape = parameters(TINY.model)[PARAMETER].shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_failure_that_is_known_is_expected(gradient: torch.Tensor) -> None:
    """It says what the bug is and where to read about it."""
    verdict, outcome = concluded(gradient * 0.5, gradient, case())
    assert (verdict.status, outcome) == ("known", pytest.xfail.Exception)
    assert "https://github.com/NVIDIA/Megatron-LM/issues/1699" in verdict.line


def test_a_known_bug_that_does_not_show_turns_the_run_red(gradient: torch.Tensor) -> None:
    """Upstream has mended it: the entry must go."""
    verdict, outcome = concluded(gradient, gradient, case())
    assert (verdict.status, outcome) == ("fail", pytest.fail.Exception)
    assert "remove the entry" in verdict.line


@pytest.mark.parametrize("of", [case("local"), case(layout="single")], ids=["implementation", "layout"])
def test_a_bug_is_known_only_where_it_is(gradient: torch.Tensor, of: Case) -> None:
    """The same numbers under another implementation or layout are a failure."""
    verdict, outcome = concluded(gradient * 0.5, gradient, of)
    assert (verdict.status, outcome) == ("fail", pytest.fail.Exception)


def test_a_known_bug_is_no_excuse_for_nan(gradient: torch.Tensor) -> None:
    """What is known is a wrong sum; a gradient that is not finite is something else."""
    spoiled = gradient.clone()
    spoiled[0, 0] = math.nan
    verdict, outcome = concluded(spoiled, gradient, case())
    assert (verdict.status, outcome) == ("fail", pytest.fail.Exception)


@pytest.mark.parametrize(
    ("implementation", "layout", "version", "known"),
    [
        ("local-stock", "tp2", "0.16.1", ["shared-rope-key-not-reduced"]),
        ("local-stock", "tp2", "0.17.0", []),
        ("local-stock", "single", "0.16.1", []),
        ("local", "tp2", "0.16.1", []),
        ("local", "tp2etp1", "0.16.1", ["expert-gradients-not-reduced"]),
        ("local", "tp2ep2", "0.16.1", []),
    ],
)
def test_an_entry_applies_by_version_layout_and_implementation(
    implementation: str, layout: str, version: str, known: list[str]
) -> None:
    """All three must fit."""
    assert [bug.id for bug in known_bugs(case(implementation, layout), version)] == known


@pytest.mark.parametrize("bug", table(), ids=lambda bug: bug.id)
def test_every_entry_names_checks_that_exist(bug: Any) -> None:
    """A pattern that matches no check would excuse nothing and never be removed."""
    names = [f"gradients/{name}" for name, parameter in parameters(TINY.model).items() if parameter.trained]
    names += observed(case())
    for pattern in bug.checks:
        assert any(type(bug)(**{**vars(bug), "checks": (pattern,)}).must_fail(case(), name) for name in names)
