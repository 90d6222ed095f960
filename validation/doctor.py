"""What this machine can run: `python -m validation doctor`, and the facts about it that reports carry.

Nothing here may fail for something that is missing, torch included: saying so is what it is for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from validation import checkout, cuda, loopback
from validation.cache import limit, locks
from validation.cache.forget import REFERENCES, contents
from validation.case import disk, packages, tree
from validation.case.empty import given_path
from validation.case.errors import ExitCode, PlumblineError, UsageError
from validation.case.home import home
from validation.case.plural import many
from validation.case.suggestions import join
from validation.case.writing import check_cache
from validation.machine import (
    ABSENT,
    available_memory,
    available_threads,
    cores,
    counted,
    cpu,
    driver,
    drivers_cuda,
    gpu_names,
    gpus,
    gpus_installed,
    machine,
    nvml,
    version,
)
from validation.run import importable, limits
from validation.run.options import parsed

__all__ = ["Finding", "available_memory", "findings", "gpus", "machine", "main", "report"]

GIB = 2**30
CPU_CASE = packages.NEEDED
"""Packages without which not even a CPU case runs."""
ALLOWED = ("loopback", "open files", "threads", "room for references", "room for temporary files")
"""What the operating system may withhold from every case."""
_NOX_HAS_IT = "" if tree.INSTALLED else "`. .nox/cpu/bin/activate` has it where nox has run, else "
_NOX = () if tree.INSTALLED else ("nox",)
_BRINGS = f"{_NOX_HAS_IT}install {tree.requirements('base')}"
_PREVENTS = {
    "torch": f"no case can run; {_BRINGS} with {tree.requirements('cpu')} or cuda.txt",
    "transformers": f"there is no reference, so no case can run; {_BRINGS}",
    "megatron-core": f"there is no candidate, so no case can run; {_BRINGS}",
    "safetensors": f"no weights can be read, so no case can run; {_BRINGS}",
    "numpy": f"nothing can be compared, so no case can run; {_BRINGS}",
    "pytest": f"no check can run; {_BRINGS}",
    "pyyaml": f"no list of known bugs and no session can be read, so no case can run; {_BRINGS}",
    "packaging": f"no list of known bugs can be read by version, so no case can run; {_BRINGS}",
    "junitparser": f"no results can be written or read, so no case can run; {_BRINGS}",
    "transformer-engine": "`--implementation te` cannot run; local and local-stock can",
    "nox": f"`nox -s` cannot run; `{tree.VALIDATION} run` can",
}

_CACHE_SETTINGS = "cache settings"
_NEEDED = (*CPU_CASE, "gloo", _CACHE_SETTINGS, *ALLOWED)
"""Without any of these not even a case on the CPU runs."""
_NO_LOCKS = "nothing can be forgotten there: its file system has no locks (flock); name a local folder in $PLUMBLINE_CACHE"


@dataclass(frozen=True)
class Finding:
    """One line of the report. `prevents` is empty for what is there, else what its absence prevents and what would work."""

    name: str
    value: str
    prevents: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.value}" + (f" - {self.prevents}" if self.prevents else "")


def findings() -> list[Finding]:
    """Everything the report says, in its order."""
    others = ("transformers", "safetensors", "numpy", *_NOX, "pytest", "junitparser", "pyyaml", "packaging")
    return [
        Finding("python", platform.python_version()),
        *_torch(),
        *_graphics(),
        _megatron(),
        *(_package(package) for package in others),
        _transformer_engine(),
        _optional("flash-attn", "Transformer Engine's flash attention; ranks start cold then, for its import uses the GPU"),
        _optional("flash-attn-4", "Transformer Engine's flash attention from 2.20 on; ranks start cold then, too"),
        _optional("apex", "megatron-core's fused optimizers"),
        _optional("triton", "one pass over GPU tensors, and megatron-core's paged stash from 0.18 on"),
        Finding("CPU", f"{many(cores(), 'core')}, {cpu()}"),
        Finding("memory", f"{available_memory() / GIB:.1f} GiB free"),
        _cache(),
        Finding("disk", f"{shutil.disk_usage(Path.cwd()).free / GIB:.1f} GiB free in the working folder"),
        *_allowed(),
    ]


def _allowed() -> list[Finding]:
    """What the operating system must allow the smallest case of two ranks: connections, open files, room for what it writes."""
    unreachable, case = loopback.problem(), parsed(["--layouts", "tp2", limit.OPTION, "none"], place=Path()).cases[0]
    rooms = {"room for temporary files": disk.runs([case])}
    with suppress(UsageError):  # said with the cache
        rooms = {"room for references": disk.references([case], home()), **rooms}
    return [
        Finding("loopback", unreachable or "can be reached", loopback.sentence(unreachable) if unreachable else ""),
        Finding("open files", f"{limits.hard_limit() or 'any number'} in a process", limits.too_few_files([case]) or ""),
        Finding(
            "threads",
            f"{many} more" if (many := available_threads()) is not None else "any number",
            limits.too_few_threads([case], 1) or "",
        ),
        *(
            Finding(name, f"{disk.left(need.folder)} in {need.folder}", disk.shortage([need]) or "")
            for name, need in rooms.items()
        ),
    ]


def _package(package: str) -> Finding:
    found = version(package)
    return Finding(package, "not installed", _PREVENTS[package]) if found == ABSENT else Finding(package, found)


def _megatron() -> Finding:
    """The version that ranks would run, the checkout that it is of, and what keeps a rank from importing it."""
    found, of = _package("megatron-core"), checkout.facts()
    if found.prevents:
        return found
    said = ", ".join(f"{name.partition('-')[2]} {value}" for name, value in of.items())
    value = f"{found.value} ({said})" if said else found.value
    if any(version(name) == ABSENT for name in CPU_CASE):
        return Finding(found.name, value)  # each of those is told by itself
    problem = importable.problem()
    return Finding(found.name, value, f"no case can run: {problem}" if problem else "")


def _torch() -> list[Finding]:
    """torch, its CUDA build and its transports; imported here because the doctor must run without it.

    The check of CUDA goes through NVML, which leaves CUDA alone.
    """
    if version("torch") == ABSENT:
        return [_package("torch")]
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    try:
        import torch
        from torch import distributed
    except Exception as error:
        return [Finding("torch", f"{version('torch')} cannot be imported ({_first_line(error)})", _PREVENTS["torch"])]
    build = torch.version.cuda
    usable = bool(torch.cuda.is_available())
    return [
        Finding("torch", torch.__version__),
        _cuda(build, usable),
        _transport("gloo", distributed.is_available() and distributed.is_gloo_available()),
        _transport("nccl", distributed.is_available() and distributed.is_nccl_available()),
    ]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _cuda(build: str | None, usable: bool) -> Finding:
    if build is None:
        return Finding("CUDA", "torch is built without it", "no GPU case can run; CPU cases (--transport gloo) can")
    if not usable:
        seen = cuda.problem(build, drivers_cuda())
        reason = (
            seen or "no GPU case can run until torch sees a GPU and a driver for this CUDA; CPU cases (--transport gloo) can"
        )
        return Finding("CUDA", f"{build} in torch, but no usable GPU", reason)
    return Finding("CUDA", build)


def _transport(name: str, there: bool) -> Finding:
    if there:
        return Finding(name, "available")
    prevents = {
        "gloo": "no CPU case can run; install a torch with torch.distributed",
        "nccl": "`--transport nccl` cannot run; gloo can",
    }
    return Finding(name, "not in this torch", prevents[name])


def _graphics() -> list[Finding]:
    prevents = "no GPU case can run; CPU cases (--transport gloo) can"
    installed, count = driver(), gpus()
    hidden = "" if count == gpus_installed() else f", {count} visible (CUDA_VISIBLE_DEVICES)"
    return [
        Finding("driver", "not found", prevents) if installed == ABSENT else Finding("driver", installed),
        Finding("GPUs", counted(gpu_names()) + hidden) if count else Finding("GPUs", f"none{hidden}", prevents),
        *([Finding("NVML", found.why, cuda.unasked(found, "nccl") or "")] if count and (found := nvml()) else []),
    ]


def _transformer_engine() -> Finding:
    """Transformer Engine without its PyTorch part installs well and fails when it is imported."""
    prevents = _PREVENTS["transformer-engine"]
    found = version("transformer-engine")
    if found == ABSENT:
        return Finding("Transformer Engine", "not installed", f"{prevents}; install {tree.requirements('te')} after cuda.txt")
    if not cuda.has_te_for_torch():
        prevents = f"{prevents}; install transformer-engine[pytorch]"
        return Finding("Transformer Engine", f"{found} without its PyTorch part", prevents)
    if cause := cuda.why_not_imported("transformer_engine.pytorch"):
        return Finding("Transformer Engine", f"{found} cannot be imported ({cause})", prevents)
    return Finding("Transformer Engine", found)


def _optional(package: str, used: str) -> Finding:
    """A package that is used where it is there and never needed: nothing is prevented."""
    found = version(package)
    return Finding(package, f"not installed (optional: {used})" if found == ABSENT else f"{found} (optional: {used})")


def _cache() -> Finding:
    """Its folder, what it holds, and how much that may be."""
    try:
        place = home()
        most = limit.written(limit.limit(None, place))
        check_cache(place)
    except PlumblineError as error:
        return Finding(_CACHE_SETTINGS, "wrong", f"no case can run: {error}")
    held = contents(place)
    counted = f"{held.references} reference{'' if held.references == 1 else 's'}"
    locked = "" if not place.exists() or locks.work(place / REFERENCES) else _NO_LOCKS
    return Finding("cache", f"{place}, {limit.written(held.size)} of {most}, {counted}", locked)


def report() -> tuple[list[Finding], ExitCode]:
    """The findings, and PASS when a CPU case can run here, else ENVIRONMENT."""
    found = findings()
    return found, ExitCode.ENVIRONMENT if _missing(found, _NEEDED) else ExitCode.PASS


def _missing(found: Sequence[Finding], names: Collection[str]) -> list[str]:
    """Those of the names whose lines say that something is prevented."""
    return [finding.name for finding in found if finding.prevents and finding.name in names]


def conclusion(found: Sequence[Finding]) -> str:
    """What can run here, in a sentence, and which lines say why the rest cannot."""
    if missing := _missing(found, _NEEDED):
        return f"No case can run here; see above: {join(missing)}"
    if missing := _missing(found, ("CUDA", "nccl", "driver", "GPUs")):
        return f"Cases on the CPU can run here, and none on GPUs; see above: {join(missing)}"
    return "Cases on the CPU can run here, and on GPUs, too"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(prog=f"{tree.VALIDATION} doctor", description="What this machine can run.")
    made.add_argument("--json", action="store_true", help="print the same as JSON")
    made.add_argument("--megatron-path", type=given_path, metavar="DIR", help="look at this checkout of megatron-core")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m validation doctor [--json]`: one line per finding, and the exit code."""
    asked = parser().parse_args(argv)
    checkout.choose(asked.megatron_path)
    found, code = report()
    told = "\n".join([*map(str, found), conclusion(found)])
    print(json.dumps([asdict(finding) for finding in found], indent=1) if asked.json else told)
    return int(code)
