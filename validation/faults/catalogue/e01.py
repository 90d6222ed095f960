"""Gradients of experts are summed over the data-parallel ranks, whose experts are others.

What megatron-core 0.16.1 does by itself in ep1 with etp unlike tp (docs/findings/expert-gradients-not-reduced.md), put where
it does not.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault

FAULT = Fault(
    plugin=__name__,
    group="expert parallel",
    does="gradients of experts are summed over the data-parallel ranks, whose experts are others",
    sources=(
        f"{CORE}/issues/1628",
        f"{CORE}/pull/5916",
    ),
    first="gradients/model.layers.{moe}.mlp.experts.down_proj.weight",
    kind="backward",
    layouts=("ep2",),
    cause="expert parallelism, data parallelism",
)


def wrapped(case: Case, model: Any) -> None:
    from megatron.core import parallel_state

    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    for buckets in (buckets for chunk in model for buckets in chunk.expert_parallel_bucket_groups):
        buckets.data_parallel_group = buckets.intra_distributed_optimizer_instance_group = group
