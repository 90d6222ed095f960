"""How much memory this process has had at its most."""

from __future__ import annotations

import resource

import torch


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_peak() -> int:
    """Largest memory of its tensors on the GPU so far, bytes; 0 where it uses none."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
