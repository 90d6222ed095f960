"""Transformer Engine's user buffers, through which tensor-parallel communication overlaps products (tp_comm_overlap).

megatron-core asks for them and leaves it to the training script to make them, once, before the model.

https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/training/initialize.py
https://github.com/NVIDIA/TransformerEngine/blob/v2.11/transformer_engine/pytorch/module/base.py
"""

from __future__ import annotations

import importlib
import inspect
import os
from typing import Any

from validation.case.case import Case
from validation.compare.precision import DTYPES

_WITHOUT_MULTICAST = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}
"""Variables that turn NVLink's multicast off for NCCL, torch and NVSHMEM, each with the value that does."""


def start(case: Case) -> None:
    """Make the buffers, if the case overlaps tensor-parallel communication; every rank takes part."""
    model = case.training.effective("model")
    if not (case.uses_te and model.get("tp_comm_overlap") and case.layout.tp > 1):
        return
    if any(os.environ.get(name) == value for name, value in _WITHOUT_MULTICAST.items()):
        # They would use multicast without asking these variables. Without it they take CUDA's memory of other processes.
        os.environ.setdefault("UB_SKIPMC", "1")
    base: Any = importlib.import_module("transformer_engine.pytorch.module.base")
    rows = case.seq_length * case.micro_batch_size // case.layout.cp
    base.initialize_ub(
        shape=[rows, case.model.hidden_size],
        tp_size=case.layout.tp,
        dtype=DTYPES[case.precision],
        bootstrap_backend=model.get("tp_comm_bootstrap_backend", "nccl"),
        **_kinds(base, case.training.fp8 != "none"),
    )


def _kinds(base: Any, fp8: bool) -> dict[str, Any]:
    """What the buffers hold: since Transformer Engine 2.7 a list, before that whether it is fp8."""
    if "quantization_modes" not in inspect.signature(base.initialize_ub).parameters:
        return {"use_fp8": fp8}
    modes = base.UserBufferQuantizationMode
    return {"quantization_modes": [modes.FP8 if fp8 else modes.NONE]}
