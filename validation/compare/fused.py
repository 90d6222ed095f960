"""The statistics of a Difference in one pass on a GPU, and the digest of a tensor's bytes where it lies. Triton.

Every program takes an unbroken run of elements and writes what it found to a row of its own: no atomics, and an order of
additions that depends on the number of elements and of multiprocessors alone, so that the same tensors give the same bits. A
second, small kernel adds up the rows and looks for the largest |d| in the first block that has it. The host waits once.

Counts, the largest |d| and its place are exact. A thread adds up its 16 elements of a step, and then the steps, in float64;
128 threads are added pairwise, then every 1024th program, then these pairwise. Each sum is within (steps of a program +
programs / 1024 + 36) times 2^-53 of the exact one, relative to the sum of its terms' magnitudes: 1.2e-14 for 2^30 elements on
132 multiprocessors.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import math
import os
import shutil
from collections.abc import Sequence
from typing import Any

import torch

from validation.compare.sums import Sums

_KINDS = (
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
DIGESTED = 1 << 20
"""Bytes from which a digest is worth a kernel."""


@functools.cache
def why() -> str:
    """Why there is no fused pass here, or ''."""
    lacking = "" if importlib.util.find_spec("triton") else "triton is not installed"
    if not lacking and not any(map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))):
        lacking = "triton finds no C compiler (cc, gcc or clang) for its launcher"
    return lacking and f"{lacking}, so differences are taken by torch, pass by pass"


def covers(*tensors: torch.Tensor) -> bool:
    """Whether tensors of these kinds can be measured in one pass."""
    return not why() and all(tensor.dtype in _KINDS and tensor.is_contiguous() for tensor in tensors)


def sums(candidate: torch.Tensor, reference: torch.Tensor) -> list[Sums]:
    """The statistics of two flat contiguous tensors on one device."""
    if not candidate.numel():
        return [Sums((0.0, 0.0, 0.0, 0.0), 0.0, 0, 0)]
    return [answered(asked(candidate, reference))]


def asked(candidate: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The same as a row on the device, which nobody has waited for; of one element at least."""
    both = [tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor for tensor in (candidate, reference)]
    with _on(candidate.device):
        row: torch.Tensor = _kernels().statistics(*both)
    return row


def answered(row: torch.Tensor) -> Sums:
    """The statistics of such a row."""
    return sums_of(row.tolist())


def sums_of(numbers: Sequence[float]) -> Sums:
    """The same of its numbers."""
    *totals, differing, largest, place = numbers
    absolute, squares, reference_squares, cross = totals
    if not differing or not all(map(math.isfinite, totals)):
        largest = place = 0
    return Sums((absolute, squares, reference_squares, cross), float(largest), int(place), int(differing))


def digest(tensor: torch.Tensor) -> str:
    """A digest of a contiguous tensor's bytes: equal where the bytes are, unequal but for one chance in 2^64 where not."""
    return digest_of(_digested(tensor).cpu())


def left_of(tensor: torch.Tensor) -> torch.Tensor:
    """What a contiguous tensor's digest is made of, flat bytes that lie where it does and that nobody has waited for."""
    return _digested(tensor) if digests(tensor) else tensor.detach().view(-1).view(torch.uint8)


def digest_of(left: torch.Tensor) -> str:
    """The digest of a tensor of which a kernel has left these bytes on the host."""
    return hashlib.sha256(left.numpy().tobytes()).hexdigest()[:16]


def _digested(tensor: torch.Tensor) -> torch.Tensor:
    data = tensor.detach().reshape(-1).view(torch.uint8)
    # A piece may begin in the middle of a word.
    data = data.clone() if data.storage_offset() % 4 else data
    whole = data.numel() // 4 * 4
    with _on(tensor.device):
        found: torch.Tensor = _kernels().digest(data[:whole].view(torch.int32))
    return torch.cat([found.view(-1).view(torch.uint8), data[whole:]])


def digests(tensor: torch.Tensor) -> bool:
    """Whether a tensor's digest is made where it lies: on a GPU, of enough bytes."""
    return tensor.is_cuda and tensor.nbytes >= DIGESTED and not why()


def _on(device: torch.device) -> Any:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@functools.cache
def _kernels() -> Any:
    """Imported where a GPU is used."""
    from validation.compare import kernels

    return kernels


def warm_up() -> None:
    """Do now what needs no GPU and would else be done in every rank.

    Triton is imported, and reads all of its own source, of which the names of compiled kernels are made: half a second.
    """
    if not why():
        _kernels()
        # Triton has no other name for it; where it goes by another one, ranks do it as before.
        getattr(importlib.import_module("triton.runtime.cache"), "triton_key", lambda: "")()
