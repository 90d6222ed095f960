"""What a rank that waits for its turn on a GPU does beforehand, so that its case finds it done.

The first function that a process compiles takes torch a second, whatever it computes, and each further one a tenth of that.
Host memory that tensors pass through is pinned when it is first taken, 2 GB in a second. None of it depends on what a case
computes, or changes that. What fails here fails again where it matters, and is reported there.
"""

from __future__ import annotations

import contextlib

import torch

from validation.candidate import host_memory
from validation.case import memory
from validation.case.case import Case


def compile_once(case: Case, device: torch.device) -> None:
    """Have torch compile a function, if the case compiles any: all that its compiler does once in a process."""
    if case.compiles:
        with contextlib.suppress(Exception):
            compiled(device)


def compiled(device: torch.device) -> torch.Tensor:
    """What a compiled function computes on the device: 2."""

    def successor(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    with torch.cuda.device(device):  # the compiler asks the current one for its state
        found: torch.Tensor = torch.compile(successor)(torch.ones((), device=device))
    return found


def pin(case: Case) -> None:
    """Pin the host memory that all gradients of the case pass through, if they do."""
    if case.transport == "staged":
        with contextlib.suppress(RuntimeError):
            host_memory.reserve(memory.reduced(case))
