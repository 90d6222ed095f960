"""A plugin that breaks overlap_param_gather: nobody gathers parameters before the forward pass that needs them."""

from __future__ import annotations

from typing import Any


def configure(case: Any, config: Any) -> None:
    """Before the model is built."""
    from megatron.core.distributed import DistributedDataParallel

    DistributedDataParallel.enable_forward_pre_hook = lambda self: None
