"""The compiled pass finds what NumPy finds, in every kind of number, and where there is no compiler NumPy goes on."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from validation.compare import native
from validation.compare.difference import Difference, measure

KINDS = (*(torch.float64, torch.float32, torch.bfloat16, torch.float16), *(torch.int64, torch.int32, torch.int16, torch.int8))
LENGTHS = (1, 7, 1023, 1024, 1025, 5000)


@pytest.fixture
def compiled() -> None:
    """Skips where there is no compiler."""
    if native.why():
        pytest.skip(native.why())


def by_numpy(candidate: torch.Tensor, reference: torch.Tensor) -> Difference:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        return measure(candidate, reference, ((0, candidate.numel()),))


def assert_same(one: Difference, other: Difference, rel: float = 1e-13) -> None:
    left, right = asdict(one), asdict(other)
    magnitude = (one.sum_squares + one.reference_squares) or 1.0
    for sums in ("sum_abs", "sum_squares", "reference_squares", "cross"):
        assert left.pop(sums) == pytest.approx(right.pop(sums), rel=rel, abs=rel * magnitude)
    assert left == right


def pair(length: int, kind: torch.dtype, other: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    reference = 50 * torch.randn(length, generator=generator)
    return (reference + torch.randn(length, generator=generator)).to(kind), reference.to(other)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_is_measured_as_numpy_measures_it(kind: torch.dtype, length: int) -> None:
    """Against its own kind and against a truth in float64; blocks that are not whole among them."""
    for other in (kind, torch.float64):
        candidate, reference = pair(length, kind, other)
        assert_same(measure(candidate, reference, ((0, length),)), by_numpy(candidate, reference))


@pytest.mark.usefixtures("compiled")
def test_every_half_is_read_as_torch_reads_it() -> None:
    """All 63488 of float16 that are finite, those without a leading one among them, and all of bfloat16's."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for kind in (torch.float16, torch.bfloat16):
        numbers = every.view(kind)
        numbers = numbers[torch.isfinite(numbers)]
        zeros = torch.zeros_like(numbers)
        exact = numbers.double()
        assert all(map(math.isfinite, native.sums(numbers, exact)[0].totals))
        same = measure(numbers, exact, ((0, len(numbers)),))
        assert (same.differing, same.max_abs) == (0, 0.0)
        assert measure(numbers, zeros, ((0, len(numbers)),)).sum_squares == pytest.approx(float((exact**2).sum()), rel=1e-13)


@pytest.mark.usefixtures("compiled")
def test_of_equal_differences_the_first_is_named() -> None:
    """Within a block, and over blocks and threads."""
    torch_threads = torch.get_num_threads()
    candidate, reference = torch.zeros(3 << 20), torch.zeros(3 << 20)
    candidate[[1500, 1501, 1 << 20, 2 << 20]] = -2.0
    try:
        torch.set_num_threads(3)
        found = measure(candidate, reference, ((0, 3 << 20),))
    finally:
        torch.set_num_threads(torch_threads)
    assert (found.max_index, found.max_abs, found.differing) == ((1500,), 2.0, 4)
    candidate[[(2 << 20) + 7, (2 << 20) + 8]] = 3.0
    try:
        torch.set_num_threads(3)
        assert measure(candidate, reference, ((0, 3 << 20),)).max_index == ((2 << 20) + 7,)
    finally:
        torch.set_num_threads(torch_threads)


@pytest.mark.usefixtures("compiled")
def test_threads_change_nothing_that_is_exact() -> None:
    """Counts, the largest and its place; sums up to rounding."""
    candidate, reference = pair(3 << 20, torch.bfloat16, torch.bfloat16)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(measure(candidate, reference, ((0, 3 << 20),)))
    finally:
        torch.set_num_threads(before)
    assert_same(found[0], found[1])


def test_without_a_compiler_numpy_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reason is a sentence, and the difference is the same."""
    candidate, reference = pair(5000, torch.float32, torch.float32)
    expected = measure(candidate, reference, ((0, 5000),))
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    native.library.cache_clear()
    monkeypatch.setattr(native, "_reasons", [])
    try:
        assert native.why() == "no C compiler (no-such-compiler) is installed"
        assert_same(measure(candidate, reference, ((0, 5000),)), expected)
    finally:
        native.library.cache_clear()


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it said is in the reason."""
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    native.library.cache_clear()
    monkeypatch.setattr(native, "_reasons", [])
    try:
        assert native.why().startswith("false does not compile difference.c")
    finally:
        native.library.cache_clear()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 4096, 4099])
def test_a_digest_is_of_every_bit_and_of_its_place(length: int) -> None:
    """Equal bytes have one digest; with any bit flipped, a byte more, or two bytes exchanged it is another."""
    data = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length)).to(torch.uint8)
    changed = [data.clone() for _ in range(8 * length if length < 10 else 64)]
    for bit, one in enumerate(changed):
        one[(bit * 61) // 8 % length] ^= 1 << (bit % 8)
    different = [data, *changed, torch.cat([data, torch.zeros(1, dtype=torch.uint8)])]
    different += [data.flip(0)] if length > 1 else []
    assert native.digest(data) == native.digest(data.clone())
    assert len({native.digest(one) for one in different}) == len(different)


@pytest.mark.usefixtures("compiled")
def test_digests_have_no_pattern() -> None:
    """Of words that differ in little, as those of weights do, every bit is set in about half of all digests."""
    words = torch.arange(4096, dtype=torch.int64)
    digests = [int(native.digest(word.reshape(1)), 16) for word in words]
    assert len(set(digests)) == len(words)
    shares = [sum(digest >> bit & 1 for digest in digests) / len(digests) for bit in range(64)]
    assert all(0.45 < share < 0.55 for share in shares)
