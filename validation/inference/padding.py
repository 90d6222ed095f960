"""Experts with rows of one number for each while tokens are decoded, as megatron-core pads them for CUDA graphs."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.case.inference import expert_capacity


def decoding(case: Case, chunk: Any, decodes: bool) -> None:
    """Before a forward pass: pad experts if it decodes alone, as megatron-core's text generation does, and else do not.

    Nothing is changed unless the case has a capacity (`moe_pad_expert_input_to_capacity`). No token is dropped
    (validation.case.setting_rules).
    """
    capacity = expert_capacity(case)
    if capacity is None:
        return
    from megatron.core.inference.utils import set_decode_expert_padding  # releases before 0.15 have none

    set_decode_expert_padding(chunk, decodes, **({"capacity_factor": capacity} if decodes else {}))
