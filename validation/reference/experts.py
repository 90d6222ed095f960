"""The gradients of routed experts, one expert at a time, from tensors that are stored anyway.

An expert's gradient follows from what the layer's experts are given, how their outputs are weighted, and the gradient that
reaches their sum: three probes of a few hundred megabytes, where the gradients of all experts of DeepSeek-V3's layer are 45 GB.
So layer by layer they are neither kept nor stored, but made again where they are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from validation.case.parameters import EXPERTS
from validation.compare.precision import as_stored
from validation.reference.sources import Precision, Weights

PROBES = ("mlp_norm", "moe.router.weights")
"""What is read of the forward pass, by the part of a probe's name behind the layer."""
GRADIENT = "moe.routed"
"""What is read of the backward pass."""


@dataclass(frozen=True)
class ExpertGradients:
    """Of one layer. `given` and `arriving` are [tokens, hidden], `weights` [tokens, experts], zero where not chosen.

    `read` makes an expert's matrix by the parameter's name, in the dtype that is computed in.
    """

    given: torch.Tensor
    weights: torch.Tensor
    arriving: torch.Tensor
    read: Callable[[str, int], torch.Tensor]

    @torch.no_grad()
    def of(self, name: str, expert: int) -> torch.Tensor:
        """The gradient of one expert's matrix, [rows, columns]; zeros for one that no token chose."""
        with as_stored():
            prefix, _, matrix = name.partition(EXPERTS)
            tokens = self.weights[:, expert].nonzero()[:, 0]
            x = self.given[tokens]
            gate, up = (functional.linear(x, self.read(f"{prefix}{EXPERTS}{half}.weight", expert)) for half in _HALVES)
            # What arrives at the expert's own output, before the router's weight.
            arriving = self.arriving[tokens] * self.weights[tokens, expert, None]
            if matrix == "down_proj.weight":
                return arriving.T @ (functional.silu(gate) * up)
            inner = arriving @ self.read(f"{prefix}{EXPERTS}down_proj.weight", expert)
            if matrix == "up_proj.weight":
                return (inner * functional.silu(gate)).T @ x
            share = torch.sigmoid(gate)
            return (inner * up * share * (1 + gate * (1 - share))).T @ x


_HALVES = ("gate_proj", "up_proj")


def expert_reader(weights: Weights, precision: Precision, device: torch.device) -> Callable[[str, int], torch.Tensor]:
    """How ExpertGradients reads matrices: rounded as the precision's weights are, in the truth's dtype."""

    def read(name: str, expert: int) -> torch.Tensor:
        _, rows, columns = weights.parameters[name].shape
        found = weights.read(name, (slice(expert, expert + 1), slice(0, rows), slice(0, columns)))[0]
        return precision.of(name, found.to(device))

    return read
