"""The statistics of a Difference in one pass on a GPU, and the digest of a tensor's bytes where it lies. Triton.

Every program takes an unbroken run of elements and writes what it found to a place of its own: no atomics, and an order of
additions that depends on the number of elements alone, so that the same tensors give the same bits. The largest |d| is looked
for in float32 where both sides are exact there; rounding keeps the order, so that the exact largest is in one of the runs whose
rounded largest is the largest, and these are gone through once more in float64.

Counts, the largest |d| and its place are exact. A lane adds up `length / (programs * BLOCK)` terms in float64, and lanes and
programs are added pairwise: each sum is within that many plus 30 times 2^-53 of the exact one, relative to the sum of its
terms' magnitudes: 6e-14 for 2^30 elements on 132 multiprocessors.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import math
import os
import shutil
from typing import Any

import torch

from validation.compare.sums import Sums

_EXACT_IN_FLOAT32 = (torch.float32, torch.bfloat16, torch.float16, torch.int16, torch.int8, torch.uint8, torch.bool)
_KINDS = (*_EXACT_IN_FLOAT32, torch.float64, torch.int64, torch.int32)
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
    length = candidate.numel()
    if not length:
        return [Sums((0.0, 0.0, 0.0, 0.0), 0.0, 0, 0)]
    kernels = _kernels()
    both = [tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor for tensor in (candidate, reference)]
    in_float32 = all(tensor.dtype in _EXACT_IN_FLOAT32 for tensor in both)
    programs, run = kernels.runs(length, candidate.device)
    found = torch.empty((programs, 6), dtype=torch.float64, device=candidate.device)
    with _on(candidate.device):
        kernels.statistics(*both, length, run, found, programs, in_float32)
        *columns, counts, tops = found.cpu().numpy().T
        absolute, squares, reference_squares, cross = (float(column.sum()) for column in columns)
        totals, differing = (absolute, squares, reference_squares, cross), int(counts.sum())
        if not differing or not all(math.isfinite(total) for total in totals):
            return [Sums(totals, 0.0, 0, differing)]
        worst = torch.from_numpy((tops == tops.max()).nonzero()[0]).to(candidate.device)
        places = torch.empty((len(worst), 2), dtype=torch.float64, device=candidate.device)
        kernels.places(*both, length, run, worst, places)
        largest, place = max(places.tolist(), key=lambda one: (one[0], -one[1]))
    return [Sums(totals, largest, int(place), differing)]


def digest(tensor: torch.Tensor) -> str:
    """A digest of a contiguous tensor's bytes: equal where the bytes are, unequal but for one chance in 2^64 where not."""
    data = tensor.detach().reshape(-1).view(torch.uint8)
    # A piece may begin in the middle of a word.
    data = data.clone() if data.storage_offset() % 4 else data
    whole = data.numel() // 4 * 4
    words = data[:whole].view(torch.int32)
    kernels = _kernels()
    programs, run = kernels.runs(words.numel(), tensor.device)
    found = torch.empty((programs, 2), dtype=torch.int64, device=tensor.device)
    with _on(tensor.device):
        kernels.digest(words, words.numel(), run, found, programs)
    digested = hashlib.sha256(found.cpu().numpy().tobytes())
    digested.update(data[whole:].cpu().numpy().tobytes())
    return digested.hexdigest()[:16]


def digests(tensor: torch.Tensor) -> bool:
    """Whether a tensor's digest is made where it lies: on a GPU, of enough bytes."""
    return tensor.is_cuda and tensor.nbytes >= DIGESTED and not why()


def _on(device: torch.device) -> Any:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@functools.cache
def _kernels() -> Any:
    """Imported when a GPU is used: triton takes half a second, and starts what a fork server must not have."""
    from validation.compare import kernels

    return kernels
