"""What a run that broke tells a user, where the ranks' own words do not: out of memory, a library that cannot be imported."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace

from validation.case import disk, exhausted, tree
from validation.case.case import Case
from validation.case.errors import ExitCode
from validation.case.home import home
from validation.case.memory import GIB
from validation.case.preflight import RULES
from validation.case.remedies import needed, ranks_need, remedies
from validation.cuda import why_not_imported
from validation.machine import gpus, version
from validation.run.launch import Broken

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_SHARED_MEMORY = "/dev/shm"
_LOST = "unknown error|uncorrectable|driver shutting down|context is destroyed|No CUDA GPUs|no CUDA-capable device"
_OF_KERNELS = "device-side assert|illegal memory access|unspecified launch failure|misaligned address"
_UNFIT = "unsupported display driver|driver version is insufficient"
_OTHER_GPU = "or name another one in CUDA_VISIBLE_DEVICES"
_OF_CUDA = {
    "busy or unavailable": f"another process has this GPU for itself, and `nvidia-smi` names it; end it, {_OTHER_GPU}",
    _LOST: f"the GPU has failed or is lost: the kernel's log (`dmesg`) has an Xid with the reason; reset it, {_OTHER_GPU}",
    _OF_KERNELS: "a kernel of the code under test failed, and CUDA says so at a later call; CUDA_LAUNCH_BLOCKING=1 shows where",
    _UNFIT: f"the driver does not fit this torch; `{tree.VALIDATION} doctor` shows both",
    "no kernel image is available": "torch, or an extension, is not built for this GPU; install one that is",
}
"""What CUDA says, as a pattern, and what to do."""
_NO_ATTENTION = "No dot product attention backend"


def explained(case: Case, broken: Broken, in_ranks: bool = True) -> Broken:
    """The same with what to do about it; `in_ranks` where the reference had been computed and ranks broke."""
    if broken.exit_code == ExitCode.ENVIRONMENT and (words := exhausted.in_words(broken.sentence)):
        return replace(broken, sentence=_of_machine(case, broken.sentence, words, in_ranks))
    if is_out_of_memory(broken):
        first, count, takes = broken.sentence.splitlines()[0].rstrip("."), max(1, gpus()), ranks_need if in_ranks else needed
        estimated = f"the estimate for {'the ranks' if in_ranks else 'the reference'} was {takes(case, count) / GIB:.1f} GiB"
        return replace(broken, sentence=f"{first}; {estimated}; {remedies(case, count, RULES, takes)}")
    if help_ := _with_cuda(broken.sentence):
        return replace(broken, sentence=f"{broken.sentence.splitlines()[0].rstrip('.')}; {help_}")
    if case.uses_te and _NO_ATTENTION in broken.sentence:
        sentence = (
            f"Transformer Engine has no attention of the kind that {case.implementation} asks for here, in {case.precision} "
            "on this GPU; --implementation te takes what there is, and te-unfused works everywhere"
        )
        return replace(broken, sentence=sentence, exit_code=ExitCode.ENVIRONMENT)
    return _without_transformer_engine(broken) if _suspected(case, broken) else broken


def is_out_of_memory(broken: Broken) -> bool:
    """Whether a GPU or the host had no memory left."""
    return any(words in broken.sentence for words in _OUT_OF_MEMORY)


def _with_cuda(said: str) -> str | None:
    """What to do about an error of CUDA's, by its first line: torch's advice behind it speaks of assertions whatever it is."""
    first = said.splitlines()[0]
    return next((help_ for words, help_ in _OF_CUDA.items() if re.search(words, first)), None) if "CUDA" in first else None


def _of_machine(case: Case, said: str, words: str, in_ranks: bool) -> str:
    """What the machine has run out of, how much the case needs, and where."""
    first = said.splitlines()[0].rstrip(".")
    if not exhausted.is_of_disk(words):
        return f"{first}: {words}; {exhausted.remedy(words)}"
    if _SHARED_MEMORY in said:
        return f"{first}; give {_SHARED_MEMORY} more room (`docker run --ipc=host`, or --shm-size)"
    needs = [disk.runs([case])] if in_ranks else [disk.references([case], home()), disk.runs([case])]
    where = disk.shortage(needs) or "; ".join(f"about {disk.said(need.bytes)} are needed in {need.folder}" for need in needs)
    return f"{first}: {where}"


def _suspected(case: Case, broken: Broken) -> bool:
    """Whether Transformer Engine may have kept the ranks from starting: megatron-core imports it wherever it is installed."""
    seen = case.uses_te or "transformer_engine" in broken.stacks or "could not be started" in broken.sentence
    return seen and importlib.util.find_spec("transformer_engine") is not None


def _without_transformer_engine(broken: Broken) -> Broken:
    cause = why_not_imported("transformer_engine.pytorch")
    if cause is None:
        return broken
    what = (
        f"it was built for a newer CUDA than torch {version('torch')} brings, and 2.12 is the newest for torch 2.11"
        if "undefined symbol: cu" in cause
        else "install it again for this torch"
    )
    sentence = (
        f"Transformer Engine is installed and cannot be imported ({cause}); {what} "
        f"(`pip install --force-reinstall --no-build-isolation -r {tree.requirements('te')}`), or uninstall it and take "
        "--implementation local"
    )
    return replace(broken, sentence=sentence, exit_code=ExitCode.ENVIRONMENT)
