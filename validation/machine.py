"""Facts about this machine and what is installed on it, without torch: for preflight, the doctor and reports."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import math
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from validation import checkout

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
ABSENT = "absent"
MIB = 2**20


def version(package: str) -> str:
    """The installed version of a package, or `absent`. Nothing is imported. Of megatron-core, the one that ranks run."""
    if package == "megatron-core" and (core := checkout.core()) is not None and (found := checkout.version(core)) is not None:
        return found
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


def _read(path: Path) -> str:
    """A file's text, empty where there is none to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _nvidia_smi(*arguments: str) -> list[str]:
    """Lines that nvidia-smi prints, none where it is missing, fails or hangs."""
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


def _lasting(*arguments: str) -> tuple[str, ...]:
    """The same for what does not change while a command runs: asked once, for each time takes some tenths of a second."""
    return _kept(_nvidia_smi, os.environ.get("PATH", ""), arguments)


@functools.cache
def _kept(ask: Callable[..., list[str]], path: str, arguments: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(ask(*arguments))


def gpus_installed() -> int:
    """GPUs of the machine, visible or not, as nvidia-smi or the driver lists them."""
    listed = [line for line in _lasting("-L") if line.startswith("GPU ")]
    if listed:
        return len(listed)
    folder = PROC / "driver" / "nvidia" / "gpus"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def gpus() -> int:
    """The number of GPUs that CUDA_VISIBLE_DEVICES leaves visible.

    As in CUDA, devices count up to the first that is not there: `0,7` on two GPUs is one, `-1` and nothing are none.
    """
    installed, visible = gpus_installed(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or installed == 0:
        return installed
    count = 0
    for word in (word.strip() for word in visible.split(",")):
        if not word.startswith(("GPU-", "MIG-")) and not (word.isdecimal() and int(word) < installed):
            break
        count += 1
    return count


def available_memory() -> int:
    """Bytes of memory that can still be had: the machine's, or what the cgroup's limit leaves where that is less."""
    lines = dict(line.split(":", 1) for line in _read(PROC / "meminfo").splitlines() if ":" in line)
    available = int(lines.get("MemAvailable", "0").split()[0]) * 1024
    return min([available, *_left_in_cgroups()])


def available_threads() -> int | None:
    """How many more threads may be started, those of new processes counted; None where nothing limits them."""
    limits = [(_read(group / "pids.max").strip(), _read(group / "pids.current").strip()) for group in _cgroups()]
    left = [int(limit) - int(used or 0) for limit, used in limits if limit.isdecimal()]
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and os.getuid() != 0:  # the limit is none for root
        left.append(soft - _threads_of(os.getuid()))
    return max(0, min(left)) if left else None


def _threads_of(user: int) -> int:
    found = 0
    for folder in PROC.iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and folder.stat().st_uid == user:
                found += len(list((folder / "task").iterdir()))
    return found


def _left_in_cgroups() -> list[int]:
    """What each memory limit on the way up from this process's cgroup leaves, its file cache counted as free."""
    left = []
    for group in _cgroups():
        limit = _read(group / "memory.max").strip()
        if limit.isdecimal():
            used = int(_read(group / "memory.current").strip() or 0)
            left.append(max(0, int(limit) - max(0, used - _file_cache(group))))
    return left


def _cgroups() -> Iterator[Path]:
    """This process's cgroup (version 2), and those that it is in."""
    own = [line[3:] for line in _read(PROC / "self" / "cgroup").splitlines() if line.startswith("0::")]
    folder = CGROUPS / own[0].strip("/") if own else CGROUPS
    for group in (folder, *folder.parents):
        yield group
        if group == CGROUPS:
            break


def _file_cache(group: Path) -> int:
    for line in _read(group / "memory.stat").splitlines():
        if line.startswith("file "):
            return int(line.split()[1])
    return 0


@dataclass(frozen=True)
class Unasked:
    """Why the driver's management library (NVML) cannot be asked; `there` says whether the library itself was found."""

    why: str
    there: bool


NVML = "libnvidia-ml.so.1"


def nvml() -> Unasked | None:
    """None where NVML answers. It is what nvidia-smi, NCCL and torch ask for GPUs; asking it uses none."""
    try:
        library = ctypes.CDLL(NVML)
    except OSError as error:
        return Unasked(str(error), there=False)
    if (code := library.nvmlInit_v2()) == 0:
        library.nvmlShutdown()
        return None
    library.nvmlErrorString.restype = ctypes.c_char_p
    return Unasked(library.nvmlErrorString(code).decode(), there=True)


def cpu() -> str:
    """The processor's name."""
    models = [line.split(":", 1)[1].strip() for line in _read(PROC / "cpuinfo").splitlines() if line.startswith("model name")]
    return models[0] if models else platform.machine()


def driver() -> str:
    """The version of the NVIDIA driver, or `absent`."""
    return next(iter(_lasting("--query-gpu=driver_version", "--format=csv,noheader")), ABSENT)


def gpu_names() -> list[str]:
    """Name and memory of each GPU: `NVIDIA H100 80GB HBM3, 81559 MiB`."""
    return [line.strip() for line in _lasting("--query-gpu=name,memory.total", "--format=csv,noheader") if line.strip()]


def compute_capability() -> tuple[int, int] | None:
    """The lowest of the GPUs, visible or not, as nvidia-smi tells it: (9, 0) of Hopper; None where it does not."""
    lines = [line.strip().split(".") for line in _lasting("--query-gpu=compute_cap", "--format=csv,noheader")]
    return min(((int(one[0]), int(one[1])) for one in lines if len(one) == 2 and all(map(str.isdecimal, one))), default=None)


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi tells it; memory in bytes, `free` what other processes leave of it now."""

    name: str
    total: int
    free: int


def visible_gpus() -> list[Gpu]:
    """The GPUs that this process may use, in CUDA's order where CUDA_VISIBLE_DEVICES names them by number."""
    lines = _nvidia_smi("--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
    found = [_gpu(line) for line in lines if line.count(",") == 2]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    words = [] if visible is None else [word.strip() for word in visible.split(",")][: gpus()]
    if visible is not None and all(word.isdecimal() for word in words):
        return [found[int(word)] for word in words if int(word) < len(found)]
    return found[: gpus()]


def _gpu(line: str) -> Gpu:
    name, total, free = (word.strip() for word in line.split(","))
    sizes = [int(size) * MIB if size.isdecimal() else 0 for size in (total, free)]
    return Gpu(name, *sizes)


def drivers_cuda() -> str | None:
    """The newest CUDA that the driver runs, as nvidia-smi's first lines tell it: `13.0`; None where they do not."""
    found = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d+\.\d+)", "\n".join(_lasting()))
    return found[1] if found else None


def torchs_cuda() -> str | None:
    """The CUDA that torch is built with, `13.0`; None for a CPU build. Read from its files: torch is not imported."""
    spec = importlib.util.find_spec("torch")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else Path()
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"](\d+\.\d+)", _read(folder / "version.py"), re.MULTILINE)
    return found[1] if found else None


def counted(names: Sequence[str]) -> str:
    """The names with how often each occurs: `8 x NVIDIA H100 80GB HBM3, 81559 MiB`."""
    return "; ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or ABSENT


def machine() -> dict[str, str]:
    """Versions and hardware, as properties of a JUnit testsuite. Imports neither torch nor anything else that is large."""
    packages = ("torch", "transformers", "megatron-core", "transformer-engine")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        **checkout.facts(),
        "platform": platform.platform(),
        "cpu": f"{cores()} x {cpu()}",
        "driver": driver(),
        "gpu": counted(gpu_names()),
    }


def cores() -> int:
    """Cores that this process may use: those that it is bound to, or as many as its container's quota comes to."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([bound, *map(_quota, _cgroups())])


def _quota(group: Path) -> int:
    """The cores, rounded up, whose time a cgroup (version 2) may take: `cpu.max` has microseconds of each period, or `max`."""
    words = _read(group / "cpu.max").split()
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        return sys.maxsize
    return math.ceil(int(words[0]) / int(words[1]))
