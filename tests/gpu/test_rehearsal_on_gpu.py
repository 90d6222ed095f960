"""What a rank does on a GPU before its turn saves its case what it says, and changes nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tests.core  # noqa: F401
from tests.gpu.conftest import needs_gpu
from validation.candidate import host_memory, rehearsal
from validation.compare import brought, staging
from validation.compare.brought import Brought
from validation.compare.sliced import SlicedFile

pytestmark = [pytest.mark.gpu, needs_gpu]


def test_a_function_is_compiled_and_no_random_number_drawn() -> None:
    """On the GPU."""
    device = torch.device("cuda", 0)
    torch.cuda.init()
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    found = rehearsal.compiled(device)
    assert (found.item(), found.device) == (2, device)
    assert all(map(torch.equal, before, (torch.cuda.get_rng_state(), torch.get_rng_state())))


def test_a_tensor_that_passes_through_reserved_memory_takes_no_more() -> None:
    """In its parts, of which the last is shorter. Reserving takes it."""
    tensor = torch.ones((2 * host_memory.PART + 4000) // 4, device="cuda")
    vars(torch._C)["_host_emptyCache"]()
    before = allocations()
    host_memory.reserve(tensor.nbytes)
    reserved = allocations()
    assert reserved == before + 3
    parts = list(host_memory.in_parts(tensor))
    assert [part.nbytes for part in parts] == [host_memory.PART] * 2 + [4000]
    assert allocations() == reserved


def allocations() -> int:
    """How often host memory has been taken from the machine."""
    return int(torch.cuda.host_memory_stats()["num_host_alloc"])


def test_files_come_to_the_gpu_as_they_are_while_others_fill_by_the_same_buffers(tmp_path: Path) -> None:
    """Several threads, in streams of their own."""
    size = 40 * (1 << 20) + 3
    values = [torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(at)) for at in range(3)]
    for at, value in enumerate(values):
        save_file({"a": value}, tmp_path / f"{at}.safetensors")
    paths = [tmp_path / f"{at}.safetensors" for at in range(3)]
    device = torch.device("cuda", 0)
    there = Brought(device)
    there.bring({path: brought._header(path) for path in paths})
    with ThreadPoolExecutor(2) as pool:
        turns = [value for _ in range(5) for value in values]
        filled = list(pool.map(lambda value: staging.to_device(value, device).cpu(), turns))
    assert all(map(torch.equal, filled, turns))
    for path, value in zip(paths, values, strict=True):
        found = there.part(path, SlicedFile(path).start("a"), torch.uint8, value.shape, None)
        assert found is not None
        assert torch.equal(found.cpu(), value)
