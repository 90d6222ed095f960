"""What a floor is made of: how tensors are scaled back and moved, and what of it goes into the reference's file."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.run.test_references import CASE
from validation.case.preset import TINY
from validation.compare.precision import computing_in
from validation.reference.floor import VARIANTS, Floor, Variant, difference_from, gradients_of, magnitude

DOUBLE, HALF, BRAIN = torch.float64, torch.float16, torch.bfloat16


def test_scaling_back_rounds_nothing() -> None:
    """Three times the smallest number that float16 holds, a thousand times too large: divided in float16 it is zero."""
    smallest = torch.tensor([3 * 2.0**-24], dtype=DOUBLE)
    found = difference_from(smallest / 1024.0, smallest.to(HALF), 1024.0)
    assert (found.differing, found.relative_error) == (0, 0.0)


def test_scaling_back_keeps_the_digits_of_float64() -> None:
    """What is wider than float32 already stays as wide."""
    truth = torch.tensor([1.0 + 1e-12], dtype=DOUBLE)
    assert difference_from(truth, 3.0 * truth, 3.0).relative_error < 1e-15
    assert difference_from(truth, truth + 1e-9).max_abs == pytest.approx(1e-9, rel=1e-3)


@pytest.mark.parametrize("scale", [2.0, 1024.0])
def test_what_is_scaled_is_scaled_back(scale: float) -> None:
    assert difference_from(torch.ones(2, dtype=DOUBLE), torch.full((2,), scale), scale).differing == 0


def test_what_is_not_scaled_is_measured_as_it_is() -> None:
    """And where it differs is counted in the whole tensor."""
    found = difference_from(torch.zeros((2, 3), dtype=DOUBLE), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.0]]))
    assert (found.count, found.differing, found.max_index) == (6, 1, (1, 1))


def test_in_fp64_a_run_in_float32_is_measured_as_it_was_made() -> None:
    """Promoting it would change nothing that could be seen; the count and the error are the same."""
    truth, run = torch.tensor([0.1], dtype=DOUBLE), torch.tensor([0.1])
    outside = difference_from(truth, run, 2.0)
    with computing_in("fp64"):
        assert difference_from(truth, run, 2.0) == outside


def test_the_magnitude_of_nothing_is_zero() -> None:
    assert magnitude(torch.empty(0)) == 0.0
    assert magnitude(torch.tensor([-3.0, 2.0])) == 3.0


@pytest.mark.parametrize("dtype", [torch.float32, BRAIN, HALF])
def test_moved_by_one_rounding_unit_up_or_down(dtype: torch.dtype) -> None:
    """Each element becomes a neighbour of itself, zeros stay, and the seed alone decides."""
    tensor = torch.randn(64, generator=torch.Generator().manual_seed(3)).to(dtype)
    tensor[:4], tensor[4:20] = 0.0, 2.0  # below a power of two numbers are half as far apart
    moved = Variant(moved=1).move(tensor)
    assert moved.dtype == dtype
    assert torch.equal(moved[:4], tensor[:4])
    up = torch.nextafter(tensor, torch.full_like(tensor, math.inf))
    down = torch.nextafter(tensor, torch.full_like(tensor, -math.inf))
    above, below = moved[4:] == up[4:], moved[4:] == down[4:]
    assert (above | below).all()
    assert above.any()
    assert below.any()
    assert torch.equal(Variant(moved=1).move(tensor), moved)
    assert not torch.equal(Variant(moved=2).move(tensor), moved)


def test_what_is_not_moved_is_the_tensor_itself() -> None:
    tensor = torch.ones(2)
    assert Variant().move(tensor) is tensor


def test_a_gradient_goes_through_what_is_moved() -> None:
    """As through the tensor: a constant is added."""
    leaf = torch.ones(3, requires_grad=True)
    Variant(moved=1).move(leaf).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [1.0, 1.0, 1.0]


def test_variants_are_told_apart_by_their_names() -> None:
    """Five runs that a user would call the same."""
    assert [variant.name for variant in VARIANTS] == [
        "sdpa attention, eager experts",
        "eager attention, eager experts",
        "sdpa attention, grouped_mm experts",
        "sdpa attention, eager experts, inputs moved (1)",
        "sdpa attention, eager experts, inputs moved (2)",
    ]


def facts(of: dict[str, torch.Tensor], *runs: dict[str, torch.Tensor], **case: Any) -> dict[str, Any]:
    found = Floor(of)
    for run in runs:
        found.add(run.items())
    return found.facts(replace(CASE, **case))


DENSE: dict[str, Any] = {"model": replace(TINY.model, num_hidden_layers=1)}
MOE: dict[str, Any] = {"model": replace(TINY.model, num_hidden_layers=2)}
SCORES, EXPERTS, BALANCING = (f"layers.1.moe.{kind}" for kind in ("router.scores", "router.experts", "balancing"))


def test_the_facts_are_those_that_a_case_reads() -> None:
    """Errors and magnitudes by name, of all runs; gradients of parameters are float32 whatever they were computed in."""
    truth = {"logits": torch.full((4,), 2.0, dtype=DOUBLE), "gradients/w": torch.ones(2, dtype=DOUBLE)}
    runs = [{"logits": torch.full((4,), 2.0 + off), "gradients/w": torch.ones(2, dtype=BRAIN)} for off in (0.25, 0.5)]
    assert facts(truth, *runs, **DENSE) == {
        "floor": {"logits": 0.25, "gradients/w": 2.0**-8},
        "magnitude": {"logits": 2.0, "gradients/w": 1.0},
        "turned": {},
        "score_floor": {},
        "dtypes": {"logits": "float32", "gradients/w": "float32"},
    }


def test_the_scores_floor_is_the_largest_error_and_belongs_to_the_choice() -> None:
    """Absolute, over all runs, in each layer that has experts; the choice itself has a dtype and no floor."""
    truth = {SCORES: torch.full((2, 4), 0.5, dtype=DOUBLE), EXPERTS: torch.zeros((2, 4), dtype=torch.bool)}
    runs = []
    for off in (0.125, 0.25, 0.0625):
        scores = torch.full((2, 4), 0.5)
        scores[1, 2] += off
        runs.append({SCORES: scores, EXPERTS: torch.ones((2, 4), dtype=torch.bool)})
    found = facts(truth, *runs, **MOE)
    assert found["score_floor"] == {EXPERTS: 0.25}
    assert found["dtypes"] == {SCORES: "float32", EXPERTS: "bool"}
    assert set(found["floor"]) == {SCORES}


def test_a_number_made_of_many_has_their_floor_at_least() -> None:
    """The balancing loss has that of its scores; a larger one of its own stays."""
    balancing = {"training": replace(CASE.training, balancing="seq_aux_loss")}
    truth = {SCORES: torch.ones((2, 4), dtype=DOUBLE), BALANCING: torch.ones((), dtype=DOUBLE)}
    for of_scores, of_loss in ((0.125, 0.0), (0.125, 0.5)):
        run = {SCORES: torch.full((2, 4), 1 + of_scores), BALANCING: torch.tensor(1 + of_loss)}
        assert facts(truth, run, **MOE, **balancing)["floor"][BALANCING] == max(of_scores, of_loss)


def test_the_loss_of_an_mtp_layer_has_its_tokens_floor() -> None:
    """The main loss beside it has the main tokens'."""
    tokens, loss = "layers.1.mtp.token_loss", "layers.1.mtp.loss"
    names = (tokens, loss, "token_loss", "loss")
    truth = {name: torch.ones(4 if "token" in name else (), dtype=DOUBLE) for name in names}
    run = {name: tensor.float() for name, tensor in truth.items()}
    run[tokens], run["token_loss"] = torch.full((4,), 1.125), torch.full((4,), 1.25)
    model = replace(TINY.model, num_hidden_layers=1, num_nextn_predict_layers=1)
    found = Floor(truth)
    found.add(run.items())
    floors = found._floors(replace(CASE, model=model))
    assert floors == {tokens: 0.125, loss: 0.125, "token_loss": 0.25, "loss": 0.25}


def test_a_difference_that_somebody_else_measured_counts_the_same() -> None:
    """As layer by layer: by name, dtype, and what the truth's largest is."""
    found = Floor({})
    found.add_difference("logits", BRAIN, difference_from(torch.ones(4, dtype=DOUBLE), torch.full((4,), 1.5)), 7.0)
    found.add_difference("logits", BRAIN, difference_from(torch.ones(4, dtype=DOUBLE), torch.full((4,), 1.25)), 7.0)
    assert found.facts(replace(CASE, **DENSE)) == {
        "floor": {"logits": 0.5},
        "magnitude": {"logits": 7.0},
        "turned": {},
        "score_floor": {},
        "dtypes": {"logits": "bfloat16"},
    }


def test_gradients_have_the_names_of_reports() -> None:
    recorded: Any = SimpleNamespace(gradients={"logits": torch.zeros(1)})
    found = dict(gradients_of(recorded, {"w": torch.ones(1)}))
    assert {name: tensor.item() for name, tensor in found.items()} == {"probe_gradients/logits": 0.0, "gradients/w": 1.0}
