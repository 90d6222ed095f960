"""The balancing losses as megatron-core's routers compute them, from where they leave them for the log."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer.moe import moe_utils

from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.compare.precision import LOSS_DTYPES
from validation.reference.store import Reference

NAMES = {"seq_aux_loss": "seq_load_balancing_loss", "aux_loss": "load_balancing_loss", "z_loss": "z_loss"}
"""megatron-core's names for them in its log."""


def compare_balancing(case: Case, recorder: Recorder, stored: Reference) -> None:
    """Each layer's loss before its coefficient, averaged over micro-batches and data-parallel ranks.

    Ranks that share a sequence hold summands of the balance losses, and means of the z-loss. megatron-core's own reduction
    for the log averages, which gloo cannot.
    """
    if case.training.balancing == "none":
        return
    tracker = _tracker()
    name = NAMES[case.training.balancing]
    # Until 0.13 the sequence-wise loss goes by the other's name.
    values = tracker.get(name, tracker.get(NAMES["aux_loss"], {})).get("values")
    layout = case.layout
    kind = LOSS_DTYPES[case.precision]
    found = torch.zeros(len(case.model.blocks), dtype=kind) if values is None else values.clone()
    dist.all_reduce(found)
    found /= case.micro_batches * layout.data_parallel
    if case.training.balancing == "z_loss":
        found /= layout.tp * layout.cp
    for layer in case.model.expert_blocks:
        recorder.compare(f"layers.{layer}.moe.balancing", found[layer].to(torch.float64), (), stored.probes, dtype=kind)


def _tracker() -> dict[str, Any]:
    """Where the routers leave their losses; parallel_state kept it in releases before 0.15."""
    home = moe_utils if hasattr(moe_utils, "get_moe_layer_wise_logging_tracker") else parallel_state
    tracker: dict[str, Any] = home.get_moe_layer_wise_logging_tracker()
    return tracker
