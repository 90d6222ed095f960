"""The KV latent norm's weight is not found under its name and stays at one.

Invisible in a model whose norm weights are all one, as they are where nobody has trained.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import PAI, Fault
from validation.faults.inject import after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="the KV latent norm's weight is not found under its name and stays at one",
    sources=(
        f"{PAI}/issues/638",
        f"{PAI}/issues/474",
    ),
    first="weights/model.layers.0.self_attn.kv_a_layernorm.weight",
)


def built(case: Case, model: Any) -> None:
    after_loading(lambda loaded: loaded.part("model.layers.0.self_attn.kv_a_layernorm.weight").fill_(1))
