"""The latents' norms of a rank: compared with the reference's epsilon, and given it (validation.case.latent_norms)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.case.latent_norms import EPSILON, GIVEN, NAME, differs

_MODULES = (("q_layernorm", "linear_q_up_proj"), ("kv_layernorm", "linear_kv_up_proj"))
"""Transformer Engine joins each norm with the projection behind it, which then has the epsilon."""


def give(case: Case, chunks: Iterable[Any], recorder: Recorder | None) -> None:
    """Record the epsilon with which each norm was built. A norm that has the model's gets the reference's instead.

    Any other value stays: no known difference makes it. Without a recorder nothing is recorded.
    """
    if not differs(case.model):
        return
    for chunk in chunks:
        for layer, attention in _attentions(case, chunk):
            norms = [_norm(attention, names) for names in _of_model(case)]
            _record(recorder, NAME, layer, norms)
            for norm in norms:
                if getattr(norm, "eps", None) == case.model.rms_norm_eps:
                    norm.eps = EPSILON
            _record(recorder, GIVEN + NAME, layer, norms)


def _of_model(case: Case) -> tuple[tuple[str, str], ...]:
    return _MODULES if case.model.q_lora_rank is not None else _MODULES[1:]


def _norm(attention: Any, names: tuple[str, ...]) -> Any:
    modules = (getattr(attention, name, None) for name in names)
    return next((module for module in modules if isinstance(getattr(module, "eps", None), float)), None)


def _record(recorder: Recorder | None, name: str, layer: int, norms: list[Any]) -> None:
    if recorder is None:
        return
    if None in norms:
        recorder.problem(name, f"layer {layer}: no module with an `eps` normalises the latents")
        return
    values = torch.tensor([[norm.eps for norm in norms]], dtype=torch.float64, device="cpu")
    recorder.measure(name, values, ((layer, layer + 1), (0, len(norms))), torch.full_like(values, EPSILON), exact=True)


def _attentions(case: Case, chunk: Any) -> Iterator[tuple[int, Any]]:
    """Each attention of a chunk with its layer, MTP layers counted on from the others."""
    for block, before in (("decoder", 0), ("mtp", case.model.num_hidden_layers)):
        for layer in getattr(getattr(chunk, block, None), "layers", ()):
            for module in layer.modules():
                if hasattr(module, "linear_kv_up_proj"):
                    yield before + layer.layer_number - 1, module
