"""Whose an exception is: the machine's or that of the code that raised it.

What the machine lacks (room on a disk, open files, a package) it lacks in another try, too. Code that raises now and then is a
finding like any other, and must not be tried again until it passes.
"""

from __future__ import annotations

import re

from validation.case import exhausted, failures
from validation.case.errors import ExitCode
from validation.run import absent

TIMED_OUT = "did not finish within"
"""What is said of ranks whose time is up (validation/run/launch.py)."""
_CLASSES = ("OutOfMemoryError", "DistError")
"""torch's own, and the base of all that its collectives and their store raise, NCCL's errors among them. By name: a process
that has no torch asks, too."""
_WORDS = re.compile(
    "|".join(
        (
            *("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED"),
            *("[Cc]onnection (closed|reset|refused)", "Broken pipe", "[Tt]imed out", "[Tt]imeout"),
            *("busy or unavailable", "ECC error", "NCCL error", "No CUDA GPUs are available", "no CUDA-capable device"),
            *("CUDA error: unknown error", "uncorrectable NVLink error", "driver shutting down", "context is destroyed"),
        )
    )
)
"""What of torch is a plain RuntimeError: gloo's collectives, CUDA's own errors, the host's allocator."""
_LACKS = re.compile("unsupported display driver|driver version is insufficient|no kernel image is available")
"""What CUDA says of a driver or a torch that is not for this GPU."""


def exit_code(error: BaseException) -> ExitCode:
    """With which code a run ends that this exception has broken: the exception's own where it has one."""
    own = getattr(error, "exit_code", None)
    if own is not None:
        return ExitCode(own)
    lacks = isinstance(error, RuntimeError) and _LACKS.search(str(error)) is not None
    if lacks or exhausted.told(error) or absent.lacking(error) is not None:
        return ExitCode.ENVIRONMENT
    return ExitCode.INFRASTRUCTURE if _is_of_the_machine(error) else ExitCode.FAIL


_MEMORY = ("out of memory", "OutOfMemoryError", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def failure(code: ExitCode, sentence: str) -> str:
    """The kind of failure (validation/case/failures.py) of a run that ended with this code and this sentence."""
    if any(words in sentence for words in _MEMORY):
        return failures.MEMORY
    if code == ExitCode.ENVIRONMENT:
        return failures.ENVIRONMENT
    if code in (ExitCode.FAIL, ExitCode.USAGE):
        return failures.EXCEPTION
    return failures.TIMEOUT if TIMED_OUT in sentence else failures.CRASH


def _is_of_the_machine(error: BaseException) -> bool:
    if not isinstance(error, Exception) or isinstance(error, (MemoryError, OSError)):
        return True  # what is no Exception is somebody who ends the process
    if any(kind.__name__ in _CLASSES for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None
