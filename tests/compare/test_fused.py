"""The pass on a GPU finds what the CPU finds. Without a GPU Triton's interpreter runs the same kernels, on little."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
import torch

from validation import compare
from validation.compare import fused, native, pending
from validation.compare.difference import measure
from validation.compare.extent import extent
from validation.compare.staging import to_device

HAS_TRITON = importlib.util.find_spec("triton") is not None
ON_GPU = torch.cuda.is_available()

needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
LENGTHS = (1, 2047, 2048, 2049, 70001) if ON_GPU else (1, 2049, 20001)
KINDS = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool)


@pytest.fixture(scope="module", autouse=True)
def interpreted() -> Iterator[None]:
    """Without a GPU. It is read when kernels are defined: ours when one is first asked for, triton's own when it is imported.

    megatron-core imports it since 0.18. All but its compiled part is therefore imported once more, for this module alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not ON_GPU:
            patch.setenv("TRITON_INTERPRET", "1")
            for name in _defined_before():
                patch.delitem(sys.modules, name)
            patch.delattr(compare, "kernels", raising=False)
            fused._kernels.cache_clear()
        yield
        if not ON_GPU:
            fused._kernels.cache_clear()
            for name in _defined_before():
                sys.modules.pop(name)
            vars(compare).pop("kernels", None)


def _defined_before() -> list[str]:
    ours, compiled = "validation.compare.kernels", "triton._C"
    return [
        name for name in sys.modules if name == ours or (name.partition(".")[0] == "triton" and not name.startswith(compiled))
    ]


def pair(length: int, kind: torch.dtype, other: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    reference = 50 * torch.randn(length, generator=generator)
    noise = torch.randn(length, generator=generator)
    return (reference + noise).to(kind).to(DEVICE), reference.to(other).to(DEVICE)


def assert_right(candidate: torch.Tensor, reference: torch.Tensor) -> None:
    """Counts, the largest and its first place exactly; sums within the error that is stated, relative to their terms."""
    (found,) = fused.sums(candidate, reference)
    kernels = fused._kernels()
    programs, run = kernels.runs(candidate.numel(), candidate.device, kernels.SHAPE)
    stated = (run / kernels.SHAPE.block + programs / 1024 + 36) * 2.0**-53
    c, r = candidate.double(), reference.double()
    d = c - r
    assert found.differing == int((d != 0).sum())
    assert found.largest == float(d.abs().max())
    assert found.place == int(d.abs().cpu().numpy().argmax())
    for total, terms in zip(found.totals, (d.abs(), d * d, r * r, c * r), strict=True):
        exact = math.fsum(terms.tolist())
        assert abs(total - exact) <= stated * float(terms.abs().sum())
    assert stated < 1e-14


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
def test_of_equal_differences_the_first_is_named() -> None:
    """In one thread's elements, in one step's, over a program's steps, over programs, and in what fills no block."""
    length = LENGTHS[-1]
    for first in (0, 1029, 5000, 15000, length - 3):
        candidate, reference = torch.zeros(length, device=DEVICE), torch.zeros(length, device=DEVICE)
        candidate[[place for place in (first, first + 1, first + 1024, first + 4096, length - 1) if place < length]] = -2.0
        (found,) = fused.sums(candidate.to(torch.bfloat16), reference)
        assert (found.place, found.largest) == (first, 2.0)


@needs_triton
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_every_half_is_read_as_torch_reads_it(kind: torch.dtype) -> None:
    """Those without a leading one among them, and the largest, whose squares float32 does not hold."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(kind)
    # Triton's interpreter reads the bf16 that lie below 2^-126 as something else.
    kept = torch.isfinite(every) & ((every.abs() >= 2.0**-126) | (every == 0) | ON_GPU | (kind == torch.float16))
    finite = every[kept].to(DEVICE)
    assert fused.sums(finite, finite.double())[0].differing == 0
    for reference in (torch.zeros_like(finite), finite.flip(0)):
        assert_right(finite, reference)


@needs_triton
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_is_not_finite_leaves_a_sum_that_is_not(kind: torch.dtype, value: float) -> None:
    """On either side and on both, in a whole block and behind the last."""
    for place, sides in itertools.product((3, 2048), ((0,), (1,), (0, 1))):
        both = pair(2049, kind, kind)
        for side in sides:
            both[side][place] = value
        assert not all(map(math.isfinite, fused.sums(*both)[0].totals))


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


@needs_triton
@pytest.mark.parametrize("held", [0, pending.HELD], ids=["one at a time", "all at once"])
def test_answers_that_come_later_are_those_that_are_waited_for(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences, digests and extents, in the order of asking, whatever becomes of the tensor meanwhile."""
    monkeypatch.setattr(pending, "HELD", held)
    wrong = torch.arange(300, dtype=torch.float64, device=DEVICE).view(3, 100)
    wrong[1, 7] = -1.0
    not_finite = torch.full((5,), math.nan, device=DEVICE)
    large = torch.arange(fused.DIGESTED + 3, device=DEVICE).to(torch.int8) if ON_GPU else wrong.to(torch.int8)
    pairs = [
        (wrong, torch.arange(300, dtype=torch.float64, device=DEVICE).view(3, 100), True),
        (wrong.t(), wrong.t().contiguous(), False),
        (not_finite, torch.ones(5, device=DEVICE), False),
        (large, large.clone(), True),
        (torch.ones((), device=DEVICE), torch.zeros((), device=DEVICE), False),
    ]
    expected = []
    for candidate, reference, exact in pairs:
        box = tuple((10, 10 + size) for size in candidate.shape)
        whole = candidate.contiguous()
        found = measure(whole, reference, box)
        digest = fused.digest(whole) if fused.digests(whole) else native.digest_or_sha(whole.cpu())
        expected.append((found, digest, extent(whole, reference, box, found, exact)))
    asked, answers = pending.Pending(), list[Any]()
    for candidate, reference, exact in pairs:
        box = tuple((10, 10 + size) for size in candidate.shape)
        asked.ask(candidate, reference, box, lambda *answer: answers.append(answer), exact)
    for candidate in (wrong, not_finite, large):
        candidate.zero_()
    assert len(answers) == (0 if held else len(pairs))
    asked.settle()
    asked.settle()
    assert repr(answers) == repr(expected)  # NaN is not equal to itself


def test_what_a_gpu_would_hold_for_long_is_measured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU nothing waits; on a GPU small tensors do, of the shape of their reference."""
    monkeypatch.setattr(fused, "why", lambda: "")
    one = torch.ones(4, 2, device=DEVICE)
    assert pending.Pending.takes(one, one) == ON_GPU
    assert not pending.Pending.takes(one, one[:2])
    assert not pending.Pending.takes(one[:0], one[:0])
    monkeypatch.setattr(pending, "LARGEST", one.nbytes - 1)
    assert not pending.Pending.takes(one, one)
