"""The Triton kernels of validation.compare.fused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl


@dataclass(frozen=True)
class Shape:
    """How a kernel is cut: elements a step, warps that share it, steps loaded ahead, programs for each multiprocessor."""

    block: int = 2048
    warps: int = 4
    stages: int = 4
    programs: int = 4


SHAPE = Shape()
_WITHOUT_GPU = 4
"""Multiprocessors where there is no GPU (Triton's interpreter)."""


def runs(length: int, device: torch.device, shape: Shape | None = None) -> tuple[int, int]:
    """Programs, and the elements of each one's run: whole blocks."""
    shape = shape or SHAPE
    cores = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else _WITHOUT_GPU
    blocks = triton.cdiv(length, shape.block)
    each = triton.cdiv(blocks, cores * shape.programs)
    return triton.cdiv(blocks, each), each * shape.block


def statistics(
    candidate: Any,
    reference: Any,
    length: int,
    run: int,
    found: Any,
    programs: int,
    in_float32: bool,
    shape: Shape | None = None,
) -> None:
    """Each program's four sums, how many differ, and the largest |d|, rounded to float32 where that is looked for."""
    shape, key = shape or SHAPE, tl.float32 if in_float32 else tl.float64
    _statistics[(programs,)](
        candidate, reference, length, found, run, BLOCK=shape.block, KEY=key, STAGES=shape.stages, num_warps=shape.warps
    )


def places(candidate: Any, reference: Any, length: int, run: int, chosen: Any, found: Any) -> None:
    """The largest |d| and its first place in each of the chosen programs' runs."""
    _places[(len(chosen),)](candidate, reference, length, chosen, found, run, BLOCK=SHAPE.block, num_warps=SHAPE.warps)


def digest(words: Any, length: int, run: int, found: Any, programs: int) -> None:
    """Two sums of each program's words, each word mixed with its place."""
    _digest[(programs,)](words, length, found, run, BLOCK=SHAPE.block, STAGES=SHAPE.stages, num_warps=SHAPE.warps)


@triton.jit
def _add(c, r, absolute, squares, reference_squares, cross, differing, largest, KEY: tl.constexpr):  # type: ignore[no-untyped-def]
    """One step's elements into the lanes."""
    c_key, r_key = c.to(KEY), r.to(KEY)
    differing += (c_key != r_key).to(tl.int32)
    largest = tl.maximum(largest, tl.abs(c_key - r_key))
    c_double, r_double = c.to(tl.float64), r.to(tl.float64)
    d = c_double - r_double
    absolute += tl.abs(d)
    squares += d * d
    reference_squares += r_double * r_double
    cross += c_double * r_double
    return absolute, squares, reference_squares, cross, differing, largest


@triton.jit
def _statistics(candidate, reference, length, found, run, BLOCK: tl.constexpr, KEY: tl.constexpr, STAGES: tl.constexpr):  # type: ignore[no-untyped-def]
    program = tl.program_id(0).to(tl.int64)
    start = program * run
    stop = tl.minimum(start + run, length)
    lane = tl.arange(0, BLOCK)
    absolute = tl.zeros((BLOCK,), tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    reference_squares = tl.zeros((BLOCK,), tl.float64)
    cross = tl.zeros((BLOCK,), tl.float64)
    differing = tl.zeros((BLOCK,), tl.int32)
    largest = tl.zeros((BLOCK,), KEY)
    whole = ((stop - start) // BLOCK).to(tl.int32)
    # Without a mask, which would have each element loaded by itself.
    for step in tl.range(0, whole, num_stages=STAGES):
        offsets = start + step * BLOCK + lane
        c, r = tl.load(candidate + offsets), tl.load(reference + offsets)
        absolute, squares, reference_squares, cross, differing, largest = _add(
            c, r, absolute, squares, reference_squares, cross, differing, largest, KEY
        )
    if start + whole * BLOCK < stop:
        offsets = start + whole * BLOCK + lane
        held = offsets < stop
        c, r = tl.load(candidate + offsets, mask=held, other=0), tl.load(reference + offsets, mask=held, other=0)
        absolute, squares, reference_squares, cross, differing, largest = _add(
            c, r, absolute, squares, reference_squares, cross, differing, largest, KEY
        )
    row = found + program * 6
    tl.store(row, tl.sum(absolute))
    tl.store(row + 1, tl.sum(squares))
    tl.store(row + 2, tl.sum(reference_squares))
    tl.store(row + 3, tl.sum(cross))
    tl.store(row + 4, tl.sum(differing.to(tl.int64)).to(tl.float64))
    tl.store(row + 5, tl.max(largest).to(tl.float64))


@triton.jit
def _places(candidate, reference, length, chosen, found, run, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    index = tl.program_id(0)
    start = tl.load(chosen + index) * run
    stop = tl.minimum(start + run, length)
    lane = tl.arange(0, BLOCK)
    largest = tl.full((BLOCK,), -1.0, tl.float64)
    place = tl.zeros((BLOCK,), tl.int64)
    steps = ((stop - start + BLOCK - 1) // BLOCK).to(tl.int32)
    for step in range(steps):
        offsets = start + step * BLOCK + lane
        held = offsets < stop
        c, r = tl.load(candidate + offsets, mask=held, other=0), tl.load(reference + offsets, mask=held, other=0)
        magnitude = tl.abs(c.to(tl.float64) - r.to(tl.float64))
        better = held & (magnitude > largest)
        largest = tl.where(better, magnitude, largest)
        place = tl.where(better, offsets, place)
    top = tl.max(largest)
    first = tl.min(tl.where(largest == top, place, length))
    tl.store(found + index * 2, top)
    tl.store(found + index * 2 + 1, first.to(tl.float64))


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
