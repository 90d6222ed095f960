"""What each expert is given and what it makes of it, token by token, of which transformers' module returns the sum only.

An isolated case compares dispatch, experts and combine each by itself. Between them stand tensors that the HuggingFace model
never has: for every token and each expert that it goes to, a row of the expert's output and a row of the gradient behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from validation.reference.record import Isolation, Recording
from validation.reference.routing import Routing

_EQUAL = 1e-10
"""Largest relative error of the rows' sum in fp64 against what transformers' module returns."""


def outputs(experts: Any, rows: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor, early: bool) -> torch.Tensor:
    """Each row through the expert that is chosen for it, times its weight; `rows` are [..., k, hidden], the others [..., k].

    The formula is that of transformers' DeepseekV3Experts.forward. `early` multiplies before the last product, as
    megatron-core does, which is the same but for rounding.
    """
    found = torch.zeros_like(rows)
    for expert in range(experts.num_experts):
        here = chosen == expert
        gate, up = functional.linear(rows[here], experts.gate_up_proj[expert]).chunk(2, dim=-1)
        inner, weight = experts.act_fn(gate) * up, weights[here].unsqueeze(-1)
        found[here] = (
            functional.linear((inner * weight).to(inner.dtype), experts.down_proj[expert])
            if early
            else (functional.linear(inner, experts.down_proj[expert]) * weight).to(rows.dtype)
        )
    return found


def record(
    experts: Any, prefix: str, chosen: torch.Tensor, given: Isolation, recording: Recording, early: bool = False
) -> None:
    """Record one layer's rows, [batch, sequence, k, hidden], experts in ascending order, and the gradients that reach them.

    `given` are the tensors that the experts and their backward pass start from. In an output's gradient all rows of a token
    are alike, and in what is dispatched: these are recorded once, [batch, sequence, hidden].
    """
    # In the dtype that the router of this run has.
    weights = given.forward[f"{prefix}.router.weights"].to(chosen.device, recording.forward[f"{prefix}.router.weights"].dtype)
    weights = weights.gather(-1, chosen)
    like = experts.down_proj.new_empty(given.forward[f"{prefix}.routed"].shape)
    hidden = given.value(f"{prefix.removesuffix('.moe')}.mlp_norm", like)
    reaching = given.gradient(f"{prefix}.routed", like)
    rows = hidden.unsqueeze(2).expand(*hidden.shape[:2], chosen.shape[-1], -1).detach().clone().requires_grad_()
    made = outputs(experts, rows, weights, chosen, early)
    (gradient,) = torch.autograd.grad(made, rows, reaching.unsqueeze(2).expand_as(rows))
    recording.forward[f"{prefix}.dispatched"], recording.forward[f"{prefix}.experts"] = hidden.cpu(), made.detach().cpu()
    recording.gradients[f"{prefix}.dispatched"], recording.gradients[f"{prefix}.experts"] = gradient.cpu(), reaching.cpu()


def check(prefix: str, forward: Mapping[str, torch.Tensor]) -> None:
    """Raises RuntimeError where the rows of the truth do not add up to what transformers' own module has returned."""
    whole, rows = forward[f"{prefix}.routed"], forward[f"{prefix}.experts"]
    error = float(torch.linalg.vector_norm(rows.sum(2) - whole) / torch.linalg.vector_norm(whole))
    if not error <= _EQUAL:
        raise RuntimeError(f"{prefix}: the experts' rows are {error:.1e} off transformers' sum; its formula has changed")


def choice(chosen: Routing, layer: int, device: torch.device) -> torch.Tensor:
    """The experts of each token in ascending order, [batch, sequence, k]."""
    return chosen[f"{layer}/experts"].to(device)
