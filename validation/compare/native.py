"""The statistics of a Difference in one pass on the CPU: difference.c, compiled where this machine has a C compiler.

NumPy needs nine passes and float64 copies, a thirtieth of the speed. Digests of tensors are made by it, too. Where it cannot
be had, `why` says so and validation.compare.difference goes on with NumPy.

The compiled file is kept (validation.case.home). Its name has a digest of its source and of the processor, so that one folder
may serve several machines, and a digest of its bytes. It is loaded only if it has those bytes, this user or root owns it, and
nobody else may write to it. Else it is compiled again. A copy in memory is loaded: whoever shortens the file later takes no
loaded page away.

Counts, the largest |d| and its place are exact. Each sum is within 1.6e-14 of the exact one, relative to the sum of its terms'
magnitudes: 128 additions in a lane and 7 over the lanes round by 2^-53 each, and what adding up the blocks loses is kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import platform
import shlex
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from validation.case.home import unchecked
from validation.compare.sums import Sums

SOURCE = Path(__file__).with_name("difference.c")
_FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")
_COMPILE_SECONDS = 300
_LARGEST = 16 << 20
"""Bytes of a compiled file at most, which has some 30,000."""
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
    if library() is None:
        return False
    for tensor in tensors:  # noqa: SIM110 - a rank asks this a thousand times, and a generator takes twice as long
        if tensor.dtype not in _KINDS or not tensor.is_contiguous():
            return False
    return True


def sums(candidate: torch.Tensor, reference: torch.Tensor) -> list[Sums]:
    """The statistics of two contiguous tensors, in parts that follow each other: one for each thread that it is worth."""
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


def digest_or_sha(tensor: torch.Tensor) -> str:
    """The same by another digest where there is no compiled pass; of a contiguous tensor on the CPU."""
    if library() is not None:
        return digest(tensor)
    return hashlib.sha256(tensor.view(-1).view(torch.uint8).numpy().data if tensor.numel() else b"").hexdigest()[:16]


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
    for path in _kept():
        with contextlib.suppress(OSError, AttributeError):  # shortened, another's, or made for a newer C library
            return _loaded(_checked(path))
    try:
        return _loaded(_compiled())
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        _reasons.append(_sentence(error))
        return None


def _loaded(code: bytes) -> Any:
    """The library that these bytes are. Raises OSError or AttributeError for any others."""
    library = _opened(code)
    function = library.plumbline_difference
    function.argtypes = [
        *(ctypes.c_void_p, ctypes.c_int) * 2,
        ctypes.c_int64,
        ctypes.POINTER(ctypes.c_double),
        ctypes.POINTER(ctypes.c_int64),
    ]
    function.restype = None
    library.plumbline_digest.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.plumbline_digest.restype = ctypes.c_uint64
    return library


def _opened(code: bytes) -> ctypes.CDLL:
    """From memory; from a private folder, where the system has no files in memory or runs none."""
    with contextlib.suppress(OSError, AttributeError), os.fdopen(os.memfd_create("plumbline-difference"), "wb") as file:
        file.write(code)
        file.flush()
        return ctypes.CDLL(f"/proc/self/fd/{file.fileno()}")
    with tempfile.TemporaryDirectory(prefix="plumbline-") as folder:
        path = Path(folder) / "difference.so"
        path.write_bytes(code)
        return ctypes.CDLL(str(path))


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


def _kept() -> list[Path]:
    """Files compiled from this source for this processor. There are several where machines have different C libraries."""
    return sorted(_folder().glob(f"difference-{_digest()}-*.so"))


def _folder() -> Path:
    return unchecked() / "native"


def _checked(path: Path) -> bytes:
    """The bytes of a compiled file, now in use. Raises OSError if they may not be loaded."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        told = os.fstat(file.fileno())
        if not stat.S_ISREG(told.st_mode) or told.st_size > _LARGEST:
            raise OSError(errno.EINVAL, "it is no compiled file", str(path))
        if told.st_uid not in (os.geteuid(), 0) or told.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(errno.EPERM, "somebody else may write to it", str(path))
        code = file.read()
        if path.stem.rpartition("-")[2] != _digest_of(code):
            raise OSError(errno.EIO, "its bytes are not those that were compiled", str(path))
        with contextlib.suppress(OSError):  # root's
            os.utime(file.fileno())
    return code


def _compiled() -> bytes:
    """Compiled now, and kept if that can be."""
    with tempfile.TemporaryDirectory(prefix="plumbline-") as folder:
        made = Path(folder) / "difference.so"
        command = [*_compiler(), *_FLAGS, "-o", str(made), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMPILE_SECONDS)
        code = made.read_bytes()
    with contextlib.suppress(OSError):
        _keep(code)
    return code


def _keep(code: bytes) -> None:
    """In one step, for ranks may compile at the same time, and for this user alone to write to."""
    _folder().mkdir(parents=True, exist_ok=True)
    number, unfinished = tempfile.mkstemp(prefix=".part-", dir=_folder())
    try:
        with os.fdopen(number, "wb") as file:
            file.write(code)
            os.fchmod(file.fileno(), 0o644)
        os.replace(unfinished, _folder() / f"difference-{_digest()}-{_digest_of(code)}.so")
    except OSError:
        os.unlink(unfinished)
        raise


def _digest_of(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()[:32]


def _digest() -> str:
    """Of the source and of the processor that it is compiled for."""
    digest = hashlib.sha256(SOURCE.read_bytes())
    digest.update(f"{platform.system()} {platform.machine()} {_compiler()} {_FLAGS}".encode())
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    digest.update("".join(sorted({line for line in lines if line.startswith(("flags", "Features"))})).encode())
    return digest.hexdigest()[:16]
