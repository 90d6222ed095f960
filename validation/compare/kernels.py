"""The Triton kernels of validation.compare.fused."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@dataclass(frozen=True)
class Shape:
    """How a kernel is cut: elements a step, warps that share it, steps loaded ahead, programs for each multiprocessor."""

    block: int = 2048
    warps: int = 4
    stages: int = 1
    programs: int = 64


SHAPE = Shape()
"""Of differences. 16 elements a thread need 64 registers: with 32 warps on a multiprocessor nothing need be loaded ahead."""
DIGEST_SHAPE = Shape(stages=4, programs=4)
_WITHOUT_GPU = 4
"""Programs where there is no GPU (Triton's interpreter): few, so that each takes several steps."""
_PAST = tl.constexpr(2.0**62)
"""Behind every place."""
_ROWS = 1024
"""Programs whose results are added up at a time."""
FOUND = 7
"""What a program finds: the four sums, how many differ, the largest |d| and where the first block with it begins."""


def runs(length: int, device: torch.device, shape: Shape) -> tuple[int, int]:
    """Programs, and the elements of each one's run: whole blocks."""
    blocks, most = triton.cdiv(length, shape.block), _WITHOUT_GPU
    if device.type == "cuda":
        most = torch.cuda.get_device_properties(device).multi_processor_count * shape.programs
    each = triton.cdiv(blocks, most)
    return triton.cdiv(blocks, each), each * shape.block


def statistics(candidate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The four sums, how many differ, the largest |d| and its first place, in float64 on the device."""
    length, shape = candidate.numel(), SHAPE
    programs, run = runs(length, candidate.device, shape)
    threads = 32 * shape.warps
    # As many elements beside each other as a thread loads in 16 bytes of the smaller kind.
    beside = min(16 // min(candidate.element_size(), reference.element_size()), shape.block // threads)
    # The last row is the result.
    found = torch.empty((programs + 1, FOUND), dtype=torch.float64, device=candidate.device)
    _statistics[(programs,)](
        *(candidate, reference, length, found, run),
        BLOCK=shape.block,
        THREADS=threads,
        BESIDE=beside,
        STAGES=shape.stages,
        num_warps=shape.warps,
    )
    _total[(1,)](candidate, reference, length, found, programs, BLOCK=shape.block, ROWS=_ROWS, num_warps=8)
    return found[programs]


def digest(words: torch.Tensor) -> torch.Tensor:
    """Two sums of each program's words, each word mixed with its place."""
    shape, length = DIGEST_SHAPE, words.numel()
    programs, run = runs(length, words.device, shape)
    found = torch.empty((programs, 2), dtype=torch.int64, device=words.device)
    _digest[(programs,)](words, length, found, run, BLOCK=shape.block, STAGES=shape.stages, num_warps=shape.warps)
    return found


@triton.jit
def _larger(one, other):  # type: ignore[no-untyped-def]
    return tl.where(other > one, other, one)


@triton.jit
def _of_threads(elements, THREADS: tl.constexpr, BESIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Each thread's elements in the first and the last dimension, so that adding these up needs no other thread."""
    return tl.reshape(elements, (elements.shape[0] // (THREADS * BESIDE), THREADS, BESIDE))


@triton.jit
def _added(elements, THREADS: tl.constexpr, BESIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    return tl.sum(tl.sum(_of_threads(elements, THREADS, BESIDE), axis=2), axis=0)


@triton.jit
def _add(  # type: ignore[no-untyped-def]
    c,
    r,
    step,
    absolute,
    squares,
    reference_squares,
    cross,
    differing,
    largest,
    first,
    THREADS: tl.constexpr,
    BESIDE: tl.constexpr,
):
    """One step's elements, those of a thread first, into the threads' sums."""
    c, r = c.to(tl.float64), r.to(tl.float64)
    d = c - r
    magnitude = tl.abs(d)
    absolute += _added(magnitude, THREADS, BESIDE)
    squares += _added(d * d, THREADS, BESIDE)
    reference_squares += _added(r * r, THREADS, BESIDE)
    cross += _added(c * r, THREADS, BESIDE)
    differing += _added((d != 0.0).to(tl.int32), THREADS, BESIDE)
    top = tl.reduce(tl.reduce(_of_threads(magnitude, THREADS, BESIDE), 2, _larger), 0, _larger)
    better = top > largest
    largest = tl.where(better, top, largest)
    first = tl.where(better, step, first)
    return absolute, squares, reference_squares, cross, differing, largest, first


@triton.jit
def _statistics(  # type: ignore[no-untyped-def]
    candidate,
    reference,
    length,
    found,
    run,
    BLOCK: tl.constexpr,
    THREADS: tl.constexpr,
    BESIDE: tl.constexpr,
    STAGES: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    start = program * run
    stop = tl.minimum(start + run, length)
    lane = tl.arange(0, BLOCK)
    absolute = tl.zeros((THREADS,), tl.float64)
    squares = tl.zeros((THREADS,), tl.float64)
    reference_squares = tl.zeros((THREADS,), tl.float64)
    cross = tl.zeros((THREADS,), tl.float64)
    differing = tl.zeros((THREADS,), tl.int32)
    largest = tl.zeros((THREADS,), tl.float64)
    first = tl.zeros((THREADS,), tl.int32)
    whole = ((stop - start) // BLOCK).to(tl.int32)
    # Without a mask, which would have each element loaded by itself.
    for step in tl.range(0, whole, num_stages=STAGES):
        offsets = start + step * BLOCK + lane
        c, r = tl.load(candidate + offsets), tl.load(reference + offsets)
        absolute, squares, reference_squares, cross, differing, largest, first = _add(
            c, r, step, absolute, squares, reference_squares, cross, differing, largest, first, THREADS, BESIDE
        )
    if start + whole * BLOCK < stop:
        offsets = start + whole * BLOCK + lane
        held = offsets < stop
        c, r = tl.load(candidate + offsets, mask=held, other=0), tl.load(reference + offsets, mask=held, other=0)
        absolute, squares, reference_squares, cross, differing, largest, first = _add(
            c, r, whole, absolute, squares, reference_squares, cross, differing, largest, first, THREADS, BESIDE
        )
    row = found + program * 7
    top = tl.max(largest)
    tl.store(row, tl.sum(absolute))
    tl.store(row + 1, tl.sum(squares))
    tl.store(row + 2, tl.sum(reference_squares))
    tl.store(row + 3, tl.sum(cross))
    tl.store(row + 4, tl.sum(differing).to(tl.float64))
    tl.store(row + 5, top)
    steps = tl.min(tl.where(largest == top, first, whole))
    tl.store(row + 6, (start + steps.to(tl.int64) * BLOCK).to(tl.float64))


@triton.jit
def _total(candidate, reference, length, found, programs, BLOCK: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The programs' rows into one, and the first place of the largest in the first block that has it."""
    absolute = tl.zeros((ROWS,), tl.float64)
    squares = tl.zeros((ROWS,), tl.float64)
    reference_squares = tl.zeros((ROWS,), tl.float64)
    cross = tl.zeros((ROWS,), tl.float64)
    differing = tl.zeros((ROWS,), tl.float64)
    largest = tl.full((ROWS,), -1.0, tl.float64)
    block = tl.zeros((ROWS,), tl.float64)
    for start in range(0, programs, ROWS):
        program = start + tl.arange(0, ROWS)
        held = program < programs
        row = found + program * 7
        absolute += tl.load(row, mask=held, other=0.0)
        squares += tl.load(row + 1, mask=held, other=0.0)
        reference_squares += tl.load(row + 2, mask=held, other=0.0)
        cross += tl.load(row + 3, mask=held, other=0.0)
        differing += tl.load(row + 4, mask=held, other=0.0)
        top = tl.load(row + 5, mask=held, other=-1.0)
        better = top > largest
        largest = tl.where(better, top, largest)
        block = tl.where(better, tl.load(row + 6, mask=held, other=0.0), block)
    total = found + programs * 7
    top = tl.max(largest)
    tl.store(total, tl.sum(absolute))
    tl.store(total + 1, tl.sum(squares))
    tl.store(total + 2, tl.sum(reference_squares))
    tl.store(total + 3, tl.sum(cross))
    tl.store(total + 4, tl.sum(differing))
    tl.store(total + 5, top)
    begin = tl.min(tl.where(largest == top, block, _PAST)).to(tl.int64)
    offsets = begin + tl.arange(0, BLOCK)
    held = offsets < length
    c, r = tl.load(candidate + offsets, mask=held, other=0), tl.load(reference + offsets, mask=held, other=0)
    here = held & (tl.abs(c.to(tl.float64) - r.to(tl.float64)) == top)
    tl.store(total + 6, tl.min(tl.where(here, offsets, length)).to(tl.float64))


@triton.jit
def _mixed(word):  # type: ignore[no-untyped-def]
    """MurmurHash3's last step: every bit of a word on every bit of the result."""
    word ^= word >> 16
    word *= 0x85EBCA6B
    word ^= word >> 13
    word *= 0xC2B2AE35
    word ^= word >> 16
    return word


@triton.jit
def _digest(words, length, found, run, BLOCK: tl.constexpr, STAGES: tl.constexpr):  # type: ignore[no-untyped-def]
    program = tl.program_id(0).to(tl.int64)
    start = program * run
    stop = tl.minimum(start + run, length)
    lane = tl.arange(0, BLOCK)
    first = tl.zeros((BLOCK,), tl.int64)
    second = tl.zeros((BLOCK,), tl.int64)
    steps = ((stop - start + BLOCK - 1) // BLOCK).to(tl.int32)
    for step in tl.range(0, steps, num_stages=STAGES):
        offsets = start + step * BLOCK + lane
        held = offsets < stop
        word = tl.load(words + offsets, mask=held, other=0).to(tl.uint32, bitcast=True)
        place = offsets.to(tl.uint32)
        one = _mixed(word + place * 0x9E3779B1)
        other = _mixed((word ^ 0x5BD1E995) * 0x2545F491 + place)
        first += tl.where(held, one.to(tl.int64), 0)
        second += tl.where(held, other.to(tl.int64), 0)
    tl.store(found + program * 2, tl.sum(first))
    tl.store(found + program * 2 + 1, tl.sum(second))
