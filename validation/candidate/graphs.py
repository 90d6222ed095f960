"""CUDA graphs that Transformer Engine records behind the first step, as upstream's training script has them recorded.

https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/cuda_graphs.py (TECudaGraphHelper)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from megatron.core import num_microbatches_calculator, parallel_state
from megatron.core.distributed import DistributedDataParallel

from validation.candidate.optimizer import Optimizer
from validation.candidate.probes import ProbedChunk
from validation.case import graphs
from validation.case.case import Case


class Recorded:
    """The graphs of a rank's layers. Until they are let go, each forward pass in training replays them."""

    def __init__(
        self, case: Case, wrapped: Sequence[DistributedDataParallel], probed: Sequence[ProbedChunk], optimizer: Optimizer
    ) -> None:
        """Record them. The gradients in the buffers, which must have been used, are zero afterwards."""
        from megatron.core.transformer.cuda_graphs import TECudaGraphHelper

        _count_micro_batches(case)
        self._helper: Any = TECudaGraphHelper(
            model=list(wrapped),
            config=wrapped[0].config,
            seq_length=case.seq_length,
            micro_batch_size=case.micro_batch_size,
            optimizers=[optimizer.theirs],
        )
        for chunk in probed:
            chunk.let_go_of_layers()
        gathering = [chunk for chunk in wrapped if getattr(chunk, "use_forward_hook", False)]
        with _without_hooks(gathering):
            self._helper.create_cudagraphs()
        if gathering:
            self._helper.cuda_graph_set_manual_hooks()

    def let_go(self) -> None:
        """Free them."""
        self._helper.delete_cuda_graphs()


def wanted(case: Case) -> bool:
    """Whether a case has Transformer Engine record CUDA graphs."""
    return graphs.by(case.training.effective("model")) == graphs.TE


def _count_micro_batches(case: Case) -> None:
    """Tell megatron-core how many micro-batches a step has, which it asks no schedule when it records."""
    num_microbatches_calculator.unset_num_microbatches_calculator()
    parts = parallel_state.get_data_parallel_world_size()
    num_microbatches_calculator.init_num_microbatches_calculator(
        torch.distributed.get_rank(),
        None,
        case.micro_batches * case.micro_batch_size * parts,
        case.micro_batch_size,
        parts,
    )


@contextlib.contextmanager
def _without_hooks(gathering: Sequence[DistributedDataParallel]) -> Iterator[None]:
    """Within it no forward pass of these asks other ranks for parameters, whose values do not matter while it is recorded."""
    for chunk in gathering:
        chunk.disable_forward_pre_hook(param_sync=False)
    try:
        yield
    finally:
        for chunk in gathering:
            chunk.enable_forward_pre_hook()
