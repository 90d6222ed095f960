"""What of a truth waits on the host while the candidate's last stage needs the GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.gpu.conftest import needs_gpu
from validation.candidate.lockstep import Truth
from validation.candidate.recorder import Recorder

pytestmark = [pytest.mark.gpu, needs_gpu]


def test_gradients_wait_on_the_host_and_are_compared_on_the_gpu(tmp_path: Path) -> None:
    """Their memory is free meanwhile. Those of another kind stay."""
    device = torch.device("cuda", 0)
    gradient = torch.randn(1 << 14, 1 << 10, generator=torch.Generator(device).manual_seed(1), device=device)
    candidate = gradient.clone()
    candidate[3, 5] += 1.0
    truth = Truth()
    truth.add("gradients", "weight", gradient)
    truth.add("probes", "hidden", candidate)
    held, size = torch.cuda.memory_allocated(), gradient.nbytes
    del gradient
    truth.to_host("gradients")
    assert torch.cuda.memory_allocated() == held - size
    assert truth.of("gradients").read("weight").device.type == "cpu"
    assert truth.of("probes").read("hidden").is_cuda
    recorder = Recorder(0, device=device)
    recorder.serve(tmp_path, truth.of("gradients"))
    recorder.compare("weight", candidate, ((0, 1 << 14), (0, 1 << 10)), tmp_path)
    ((_, found, *_),) = recorder.as_dict()["pieces"]["weight"]
    assert found[1] == 1  # elements that differ
