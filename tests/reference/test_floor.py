"""The floor of a tensor: the largest error of the runs that a user would call the same."""

from __future__ import annotations

import math

import pytest
import torch

from tests.run.test_references import CASE
from validation.reference.floor import Floor

LOSSES, LOGITS = "token_loss", "logits"


def truth() -> dict[str, torch.Tensor]:
    return {
        "logits": torch.ones(4, dtype=torch.float64),
        "token_loss": torch.ones(4, dtype=torch.float64),
        "loss": torch.ones((), dtype=torch.float64),
    }


def floor_of(*runs: dict[str, torch.Tensor], scale: float = 1.0) -> dict[str, float]:
    found = Floor(truth())
    for run in runs:
        found.add(run.items(), scale)
    facts: dict[str, float] = found._floors(CASE)
    return facts


def test_the_largest_error_counts() -> None:
    """Relative to the truth, over all runs."""
    runs = [{LOGITS: torch.full((4,), 1 + error)} for error in (0.01, 0.03, 0.02)]
    assert floor_of(*runs)[LOGITS] == pytest.approx(0.03, rel=1e-5)


def test_a_lucky_run_is_no_floor() -> None:
    """A tensor that came out right to the last digit is still rounded to its dtype by as much."""
    assert floor_of({LOGITS: torch.ones(4, dtype=torch.bfloat16)})[LOGITS] == 2**-8
    assert floor_of({LOGITS: torch.ones(4)})[LOGITS] == 2**-24


def test_the_magnitude_is_the_truths_largest() -> None:
    """Whatever its sign, and not that of the runs."""
    found = Floor({LOGITS: torch.tensor([2.0, -30.0, 0.0], dtype=torch.float64)})
    found.add({LOGITS: torch.tensor([2.0, -40.0, 50.0])}.items())
    assert found._magnitudes == {LOGITS: 30.0}


def test_errors_that_cancel_in_a_mean_are_no_floor() -> None:
    """The loss happens to be right although no token's is: it gets the floor of the tokens."""
    losses = torch.tensor([1.1, 0.9, 1.1, 0.9])
    found = floor_of({LOSSES: losses, "loss": losses.mean()})
    assert found["loss"] == found[LOSSES] == pytest.approx(0.1, rel=1e-5)


def test_scaled_gradients_are_scaled_back() -> None:
    """They are those of a loss as large as Megatron's."""
    assert floor_of({LOGITS: torch.full((4,), 1.5 * 1024)}, scale=1024.0)[LOGITS] == 0.5


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_run_that_overflows_is_no_floor(bad: float) -> None:
    """An infinite floor would excuse everything."""
    assert floor_of({LOGITS: torch.full((4,), bad)}, {LOGITS: torch.full((4,), 1.25)})[LOGITS] == 0.25
    assert floor_of({LOGITS: torch.full((4,), 1.25)}, {LOGITS: torch.full((4,), bad)})[LOGITS] == 0.25


def test_a_floor_is_raised_and_never_lowered() -> None:
    """For what rounding may do, whatever the runs have shown."""
    found = Floor({LOGITS: torch.tensor([2.0, -4.0], dtype=torch.float64)})
    found.add([(LOGITS, torch.tensor([2.0, -4.5], dtype=torch.float64))])
    shown = found.error(LOGITS)
    assert shown > 0
    found.raise_to(LOGITS, shown / 2)
    assert found.error(LOGITS) == shown
    found.raise_to(LOGITS, shown * 2)
    assert found.error(LOGITS) == shown * 2
