"""Which part of a parameter one rank holds."""

from __future__ import annotations

import math

from validation.case.layout import Layout
from validation.case.parameters import EXPERTS, Parameter

_CUT_BY_TP = ("embed_tokens", "lm_head", "q_b_proj", "q_proj", "kv_b_proj", "o_proj", "mlp.", "eh_proj")
_WHOLE = ("mlp.gate.",)
_DOWN = ("q_a_proj", "kv_a_proj_with_mqa")


def share(parameter: Parameter, layout: Layout, implementation: str) -> int:
    """Elements of a parameter that one rank holds, of a layout that divides it."""
    elements = math.prod(parameter.shape)
    if EXPERTS in parameter.name:
        return elements // (layout.ep * layout.expert_tp)
    down_is_cut = implementation == "local-stock" and any(word in parameter.name for word in _DOWN)
    cut = any(word in parameter.name for word in _CUT_BY_TP) and not any(word in parameter.name for word in _WHOLE)
    return elements // layout.tp if cut or down_is_cut else elements
