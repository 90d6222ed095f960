"""Marks that say for what a check is made: every layer of a kind, every parameter; and what its module is about."""

from __future__ import annotations

from typing import Any

import pytest

from validation.case import joined_latents, latent_norms
from validation.case.case import Case
from validation.case.inference import generated, generates, inferred, infers
from validation.case.parameters import parameters
from validation.case.probes import observed, sees_scores
from validation.case.steps import LOSS_SCALE, NORM, RATES, ZEROS, stepped

other_epsilon = pytest.mark.every("epsilon", "other_epsilon")
every_layer = pytest.mark.every("layer", "every_layer")
dense_layers = pytest.mark.every("layer", "dense_layers")
moe_layers = pytest.mark.every("layer", "moe_layers")
scored_layers = pytest.mark.every("layer", "scored_layers")
attending_layers = pytest.mark.every("layer", "attending_layers")
sparse_layers = pytest.mark.every("layer", "sparse_layers")
query_latent_layers = pytest.mark.every("layer", "query_latent_layers")
shared_expert_layers = pytest.mark.every("layer", "shared_expert_layers")
mtp_layers = pytest.mark.every("layer", "mtp_layers")
isolated_moe_layers = pytest.mark.every("layer", "isolated_moe_layers")
balanced_layers = pytest.mark.every("layer", "balanced_layers")
input_norm_layers = pytest.mark.every("layer", "input_norm_layers")
mlp_norm_layers = pytest.mark.every("layer", "mlp_norm_layers")
every_probe_gradient = pytest.mark.every("probe", "every_probe_gradient")
every_rate = pytest.mark.every("key", "every_rate")
over_all_gradients = pytest.mark.every("key", "over_all_gradients")
everything_stepped = pytest.mark.every("key", "everything_stepped")
every_parameter = pytest.mark.every("parameter", "every_parameter")
trained_parameters = pytest.mark.every("parameter", "trained_parameters")
with_generation = pytest.mark.every("shape", "with_generation")
everything_inferred = pytest.mark.every("name", "everything_inferred")
"""Each makes one check per layer (or parameter) of that kind that the case's model has."""


TRAINS, INFERS = "trains", "infers"
"""What a case does."""


def concerns(module: Any, case: Case) -> bool:
    """Whether a module of checks is about what the case does: its MODES, or training if it names none."""
    return (INFERS if infers(case) else TRAINS) in getattr(module, "MODES", (TRAINS,))


def members(kind: str, case: Case) -> list[int] | list[str] | list[float]:
    """The layers or parameters of one kind, from the case alone."""
    model = case.model
    everything, with_experts = list(model.blocks), list(model.expert_blocks)
    layers: dict[str, list[int]] = {
        "every_layer": everything,
        "dense_layers": list(model.dense_layers),
        "moe_layers": with_experts,
        "scored_layers": with_experts if sees_scores(case) else [],
        "balanced_layers": with_experts if case.training.balancing != "none" else [],
        "isolated_moe_layers": with_experts if case.isolated else [],
        "mtp_layers": list(model.mtp_layers),
        "attending_layers": [] if model.sparse else everything,
        "sparse_layers": everything if model.sparse else [],
        "query_latent_layers": everything if model.q_lora_rank is not None else [],
        "shared_expert_layers": with_experts if model.n_shared_experts else [],
        # Transformer Engine joins a norm with the linear layer behind it: in a dense layer, and before joined down-projections.
        "input_norm_layers": [] if joined_latents.with_norm(case) else everything,
        "mlp_norm_layers": with_experts if case.uses_te else everything,
    }
    if kind in layers:
        return layers[kind]
    if kind == "every_probe_gradient":
        return [probe.name for probe in reversed(list(observed(case).values())) if probe.has_gradient]
    if kind in ("every_rate", "over_all_gradients", "everything_stepped"):
        return [key for key in stepped(case) if _of_step(key) == kind]
    if kind == "with_generation":
        return ["x".join(map(str, generated(case)))] if generates(case) else []
    if kind == "everything_inferred":
        return list(inferred(case))
    if kind == "other_epsilon":
        return [model.rms_norm_eps] if latent_norms.differs(model) else []
    if kind == "every_parameter":
        return list(parameters(model))
    # Gradients flow from the back: the first that is wrong is then the one nearest to the cause.
    return [parameter.name for parameter in reversed(list(parameters(model).values())) if parameter.trained]


def _of_step(key: str) -> str:
    """The kind of what is compared of a step, by its key."""
    kind = key.split("/")[1]
    if kind in (*RATES, LOSS_SCALE):
        return "every_rate"
    return "over_all_gradients" if kind in (NORM, ZEROS) else "everything_stepped"
