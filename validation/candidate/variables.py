"""Variables of Transformer Engine that must say what a case's settings say: it compares them, or reads nothing else."""

from __future__ import annotations

import os

from validation.case.case import Case

_OF_TE = {
    "apply_query_key_layer_scaling": ("NVTE_APPLY_QK_LAYER_SCALING", "1"),
    "deterministic_mode": ("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "0"),
}
"""By the field that asks for it. megatron-core refuses the field with Transformer Engine where the variable says otherwise.

https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/extensions/transformer_engine.py
"""


def wanted(case: Case) -> dict[str, str]:
    """What a rank of the case needs. Settings that are off need nothing, for what a user has set is the user's."""
    model = case.training.effective("model")
    return dict(named for field, named in _OF_TE.items() if case.uses_te and model.get(field) is True)


def settle(case: Case) -> None:
    """Set them, in a rank, before its model is built."""
    os.environ.update(wanted(case))
