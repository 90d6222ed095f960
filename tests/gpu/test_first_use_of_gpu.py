"""A thread uses the GPU first: nothing of it stays, and the model draws what it would have drawn.

As in a rank, whatever has libraries of its own is imported before: Transformer Engine may bring another cuDNN than torch's, and
cannot be imported any more once torch has loaded a part of its own.
"""

from __future__ import annotations

import pytest
import torch

import tests.core  # noqa: F401
from tests.gpu.conftest import needs_gpu
from validation.candidate import first_use

pytestmark = [pytest.mark.gpu, needs_gpu]


def test_it_comes_to_its_end_and_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory but cuBLAS's workspaces, and no other random state."""
    reached: list[float] = []
    model = first_use.like_a_model

    def watched(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        loss = model(device, dtype)
        reached.append(float(loss))
        return loss

    monkeypatch.setattr(first_use, "like_a_model", watched)
    torch.cuda.init()
    memory, state = torch.cuda.memory_allocated(), torch.cuda.get_rng_state()
    first_use.ahead(0, torch.float64, torch.bfloat16).join()
    assert len(reached) == 2
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.cuda.memory_allocated() - memory < 128 << 20


def test_what_fails_there_is_left_to_the_case(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A card that is full, say: the thread ends, and says nothing."""

    def full(*given: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(first_use, "like_a_model", full)
    first_use.ahead(0, torch.bfloat16).join()
    assert not capfd.readouterr().err
