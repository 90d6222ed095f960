"""The statistics of a Difference in one pass on the CPU: difference.c, compiled where this machine has a C compiler.

NumPy needs nine passes and float64 copies, a thirtieth of the speed. The compiled file is kept (validation.case.home), by a
digest of its source and of the processor, so that one folder may serve several machines. Digests of tensors are
made by it, too. Where it cannot be had, `why` says so and validation.compare.difference goes on with NumPy.

Counts, the largest |d| and its place are exact. Each sum is within 1.6e-14 of the exact one, relative to the sum of its terms'
magnitudes: 128 additions in a lane and 7 over the lanes round by 2^-53 each, and what adding up the blocks loses is kept.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from validation.case.home import home
from validation.compare.sums import Sums

SOURCE = Path(__file__).with_name("difference.c")
_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
_COMPILE_SECONDS = 60
_KINDS = {
    torch.float64: 0,
    torch.float32: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
    torch.int64: 4,
    torch.int32: 5,
    torch.int16: 6,
    torch.int8: 7,
    torch.uint8: 8,
    torch.bool: 8,
}
"""How difference.c numbers them."""
_A_THREAD = 1 << 20
"""Elements that are worth a thread of their own."""


def covers(*tensors: torch.Tensor) -> bool:
    """Whether tensors of these kinds can be measured here."""
    return library() is not None and all(tensor.dtype in _KINDS and tensor.is_contiguous() for tensor in tensors)


def sums(candidate: torch.Tensor, reference: torch.Tensor) -> list[Sums]:
    """The statistics of two flat contiguous tensors, in parts that follow each other: one for each thread that it is worth."""
    length = candidate.numel()
    threads = max(1, min(torch.get_num_threads(), length // _A_THREAD))
    if threads == 1:
        return [_pass(candidate, reference, 0, length)]
    step = -(-length // threads)
    starts = range(0, length, step)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda start: _pass(candidate, reference, start, min(step, length - start)), starts))


def digest(tensor: torch.Tensor) -> str:
    """A digest of a contiguous tensor's bytes: equal where the bytes are, unequal but for one chance in 2^64 where not."""
    return f"{library().plumbline_digest(tensor.data_ptr(), tensor.nbytes):016x}"


_FIVE_DOUBLES, _TWO_INTEGERS = ctypes.c_double * 5, ctypes.c_int64 * 2


def _pass(candidate: torch.Tensor, reference: torch.Tensor, start: int, length: int) -> Sums:
    found, places = _FIVE_DOUBLES(), _TWO_INTEGERS()
    library().plumbline_difference(
        candidate.data_ptr() + start * candidate.element_size(),
        _KINDS[candidate.dtype],
        reference.data_ptr() + start * reference.element_size(),
        _KINDS[reference.dtype],
        length,
        found,
        places,
    )
    absolute, squares, reference_squares, cross, largest = found
    return Sums((absolute, squares, reference_squares, cross), largest, start + places[1], places[0])


@functools.cache
def library() -> Any:
    """The compiled file, compiled now where it was not yet; None where it cannot be had (see `why`)."""
    try:
        loaded = ctypes.CDLL(str(_compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        _reasons.append(_sentence(error))
        return None
    function = loaded.plumbline_difference
    function.argtypes = [
        *(ctypes.c_void_p, ctypes.c_int) * 2,
        ctypes.c_int64,
        ctypes.POINTER(ctypes.c_double),
        ctypes.POINTER(ctypes.c_int64),
    ]
    function.restype = None
    loaded.plumbline_digest.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    loaded.plumbline_digest.restype = ctypes.c_uint64
    return loaded


_reasons: list[str] = []


def why() -> str:
    """Why there is no compiled pass here, or ''."""
    return "" if library() is not None else _reasons[0]


def _sentence(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"{error.cmd[0]} does not compile difference.c: {error.stderr.strip()}"
    if isinstance(error, FileNotFoundError) and error.filename == _compiler()[0]:
        return f"no C compiler ({error.filename}) is installed"
    return f"difference.c: {error}"


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def _compiled() -> Path:
    kept = home() / "native" / f"difference-{_digest()}.so"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder) / kept.name
            command = [*_compiler(), *_FLAGS, "-o", str(made), str(SOURCE)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMPILE_SECONDS)
            # In one step: ranks may compile at the same time.
            made.rename(kept)
    return kept


def _digest() -> str:
    """Of the source and of the processor that it is compiled for."""
    digest = hashlib.sha256(SOURCE.read_bytes())
    digest.update(f"{platform.system()} {platform.machine()} {_compiler()} {_FLAGS}".encode())
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    digest.update("".join(sorted({line for line in lines if line.startswith(("flags", "Features"))})).encode())
    return digest.hexdigest()[:16]
