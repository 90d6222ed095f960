"""Other ways to write validation.compare.kernels' `_statistics`, timed beside it by `difference.py --tune`.

To be removed with `--tune`'s use of it when they have been timed: each stands alone and shares nothing with another.
"""

# What Triton compiles has no annotations, and constants in capitals.
# ruff: noqa: ANN001, ANN201, ANN202, D103, N803
from __future__ import annotations

import triton
import triton.language as tl

from validation.compare.kernels import _added, _larger, _of_threads


@triton.jit
def _add_native(  # type: ignore[no-untyped-def]
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
    """Elements are counted in float32: half an instruction for bf16 instead of one on the float64 units."""
    if c.dtype.primitive_bitwidth <= 32 and r.dtype.primitive_bitwidth <= 32:
        differing += _added((c.to(tl.float32) != r.to(tl.float32)).to(tl.int32), THREADS, BESIDE)
    else:
        differing += _added((c.to(tl.float64) != r.to(tl.float64)).to(tl.int32), THREADS, BESIDE)
    c, r = c.to(tl.float64), r.to(tl.float64)
    d = c - r
    magnitude = tl.abs(d)
    absolute += _added(magnitude, THREADS, BESIDE)
    squares += _added(d * d, THREADS, BESIDE)
    reference_squares += _added(r * r, THREADS, BESIDE)
    cross += _added(c * r, THREADS, BESIDE)
    top = tl.reduce(tl.reduce(_of_threads(magnitude, THREADS, BESIDE), 2, _larger), 0, _larger)
    better = top > largest
    largest = tl.where(better, top, largest)
    first = tl.where(better, step, first)
    return absolute, squares, reference_squares, cross, differing, largest, first


@triton.jit
def statistics_native(  # type: ignore[no-untyped-def]
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
        absolute, squares, reference_squares, cross, differing, largest, first = _add_native(
            c, r, step, absolute, squares, reference_squares, cross, differing, largest, first, THREADS, BESIDE
        )
    if start + whole * BLOCK < stop:
        offsets = start + whole * BLOCK + lane
        held = offsets < stop
        c, r = tl.load(candidate + offsets, mask=held, other=0), tl.load(reference + offsets, mask=held, other=0)
        absolute, squares, reference_squares, cross, differing, largest, first = _add_native(
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
def _widened(r):  # type: ignore[no-untyped-def]
    """bf16 and float32 as float64: the exponent moved into its place, and its bias mended by an exact product.

    What is not finite becomes 2^128 or more. Were this the default, fused.sums would have to take a total of 2^255 or more for
    one that is not finite (torch goes on then, and is right in either case).
    """
    if r.dtype == tl.bfloat16:
        bits = r.to(tl.float32).to(tl.int32, bitcast=True)
        return (((bits >> 3) & -0x70000001).to(tl.int64) << 32).to(tl.float64, bitcast=True) * 5.282945311356653e269
    if r.dtype == tl.float32:
        bits = r.to(tl.int32, bitcast=True)
        low = (bits << 29).to(tl.uint32, bitcast=True).to(tl.int64)
        high = ((bits >> 3) & -0x70000001).to(tl.int64) << 32
        return (high | low).to(tl.float64, bitcast=True) * 5.282945311356653e269
    return r.to(tl.float64)


@triton.jit
def _add_mixed(  # type: ignore[no-untyped-def]
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
    """As native, and the reference is widened by shifts: of conversions a multiprocessor makes 16 a clock."""
    if c.dtype.primitive_bitwidth <= 32 and r.dtype.primitive_bitwidth <= 32:
        differing += _added((c.to(tl.float32) != r.to(tl.float32)).to(tl.int32), THREADS, BESIDE)
    else:
        differing += _added((c.to(tl.float64) != r.to(tl.float64)).to(tl.int32), THREADS, BESIDE)
    c, r = c.to(tl.float64), _widened(r)
    d = c - r
    magnitude = tl.abs(d)
    absolute += _added(magnitude, THREADS, BESIDE)
    squares += _added(d * d, THREADS, BESIDE)
    reference_squares += _added(r * r, THREADS, BESIDE)
    cross += _added(c * r, THREADS, BESIDE)
    top = tl.reduce(tl.reduce(_of_threads(magnitude, THREADS, BESIDE), 2, _larger), 0, _larger)
    better = top > largest
    largest = tl.where(better, top, largest)
    first = tl.where(better, step, first)
    return absolute, squares, reference_squares, cross, differing, largest, first


@triton.jit
def statistics_mixed(  # type: ignore[no-untyped-def]
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
        absolute, squares, reference_squares, cross, differing, largest, first = _add_mixed(
            c, r, step, absolute, squares, reference_squares, cross, differing, largest, first, THREADS, BESIDE
        )
    if start + whole * BLOCK < stop:
        offsets = start + whole * BLOCK + lane
        held = offsets < stop
        c, r = tl.load(candidate + offsets, mask=held, other=0), tl.load(reference + offsets, mask=held, other=0)
        absolute, squares, reference_squares, cross, differing, largest, first = _add_mixed(
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


EVERY = {"native": statistics_native, "mixed": statistics_mixed}
