"""What a GPU is first used for runs in every precision, and draws nothing at random."""

from __future__ import annotations

import threading

import pytest
import torch

from validation.candidate import first_use
from validation.compare.precision import DTYPES


@pytest.mark.parametrize("precision", DTYPES)
def test_every_operation_runs_and_draws_nothing_at_random(precision: str) -> None:
    """To the end, which is the loss and its gradients."""
    before = torch.get_rng_state()
    loss = first_use.like_a_model(torch.device("cpu"), DTYPES[precision])
    assert torch.equal(torch.get_rng_state(), before)
    # Every logit is the same, so that each token but the first has the logarithm of how many there are.
    assert float(loss) == pytest.approx(511 * torch.log(torch.tensor(1024.0)).item(), rel=1e-5)


def test_without_a_gpu_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants to compute there says it."""
    raised = list[object]()
    monkeypatch.setattr(threading, "excepthook", raised.append)
    first_use.ahead(torch.cuda.device_count(), torch.float64).join()
    assert not raised
