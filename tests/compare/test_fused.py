"""The pass on a GPU finds what the CPU finds. Without a GPU Triton's interpreter runs the same kernels, on little."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import asdict

import pytest
import torch

HAS_TRITON = importlib.util.find_spec("triton") is not None
ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    # Read when the kernels are defined, which is when one is first asked for.
    os.environ["TRITON_INTERPRET"] = "1"

from validation.compare import fused  # noqa: E402
from validation.compare.difference import measure  # noqa: E402
from validation.compare.staging import to_device  # noqa: E402

needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
LENGTHS = (1, 2047, 2048, 2049, 70001) if ON_GPU else (1, 2049, 20001)
KINDS = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool)


def pair(length: int, kind: torch.dtype, other: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    reference = 50 * torch.randn(length, generator=generator)
    noise = torch.randn(length, generator=generator)
    return (reference + noise).to(kind).to(DEVICE), reference.to(other).to(DEVICE)


def assert_right(candidate: torch.Tensor, reference: torch.Tensor) -> None:
    """Counts, the largest and its first place exactly; sums within the error that is stated, relative to their terms."""
    (found,) = fused.sums(candidate, reference)
    c, r = candidate.double(), reference.double()
    d = c - r
    assert found.differing == int((d != 0).sum())
    assert found.largest == float(d.abs().max())
    assert found.place == int(d.abs().cpu().numpy().argmax())
    for total, terms in zip(found.totals, (d.abs(), d * d, r * r, c * r), strict=True):
        exact = math.fsum(terms.tolist())
        assert abs(total - exact) <= 1e-13 * float(terms.abs().sum())


@needs_triton
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_is_measured(kind: torch.dtype, length: int) -> None:
    """Against its own kind and against a truth in float64."""
    for other in (kind, torch.float64):
        assert_right(*pair(length, kind, other))


@needs_triton
def test_the_largest_is_exact_where_float32_cannot_tell_two_apart() -> None:
    """1 - 2^-30 and 1 are the same in float32: the exact largest is named, wherever the other is."""
    candidate, reference = torch.zeros(20000, device=DEVICE), torch.zeros(20000, device=DEVICE)
    candidate[[5, 15000]] = 1.0
    reference[5] = 2.0**-30
    (found,) = fused.sums(candidate, reference)
    assert (found.largest, found.place) == (1.0, 15000)
    assert fused.sums(candidate, torch.zeros(20000, device=DEVICE))[0].place == 5


@needs_triton
def test_the_same_tensors_give_the_same_bits() -> None:
    """No order of additions is left to chance."""
    candidate, reference = pair(20001, torch.float32, torch.float32)
    assert fused.sums(candidate, reference) == fused.sums(candidate, reference)


@needs_triton
def test_a_digest_tells_bytes_apart() -> None:
    """One bit, two that changed places, the last bytes that fill no word."""
    tensor = torch.randn(9001, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16).to(DEVICE)
    digest = fused.digest(tensor)
    assert fused.digest(tensor.clone()) == digest
    swapped, flipped, last = tensor.clone(), tensor.clone(), tensor.clone()
    swapped[[10, 20]] = tensor[[20, 10]]
    flipped.view(torch.int16)[4000] ^= 1
    last[-1] += 1
    assert fused.digest(torch.cat([last[:1], tensor])[1:]) == digest
    assert len({digest, *(fused.digest(other) for other in (swapped, flipped, last))}) == 4


def test_without_triton_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is covered, so that torch goes on."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fused.why.cache_clear()
    try:
        assert "triton is not installed" in fused.why()
        assert not fused.covers(torch.zeros(3))
    finally:
        fused.why.cache_clear()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_on_a_gpu_a_difference_is_the_cpus(kind: torch.dtype) -> None:
    """Pieces that are views, a reference that lies on the host, and what is not finite."""
    candidate, reference = (tensor.view(50, 40, 35) for tensor in pair(70000, kind, kind))
    turned, host = candidate.transpose(0, 1)[3:, ::2], reference.transpose(0, 1)[3:, ::2].cpu()
    box = ((3, 40), (0, 25), (0, 35))
    for spoil in (False, True):
        if spoil and kind.is_floating_point:
            candidate[7, 9, 11] = math.nan
        on_gpu, on_cpu = asdict(measure(turned, host, box)), asdict(measure(turned.cpu(), host, box))
        assert {name: pytest.approx(value, rel=1e-12, nan_ok=True) for name, value in on_cpu.items()} == on_gpu


@pytest.mark.gpu
@needs_gpu
def test_what_goes_through_pinned_buffers_arrives() -> None:
    """More than two buffers full, and not a multiple of them."""
    host = torch.randn((100 << 20) + 3).to(torch.bfloat16)
    assert torch.equal(to_device(host, DEVICE).cpu(), host)
