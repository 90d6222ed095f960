"""References are computed in this process here, which sets torch's switches for good: for a process of its own, as a rule."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def switches_put_back() -> Iterator[None]:
    """What validation.compare.precision.make_deterministic sets is afterwards as it was."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, torch.get_deterministic_debug_mode()
    yield
    cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, mode = before
    torch.set_deterministic_debug_mode(mode)
