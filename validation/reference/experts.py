"""The gradients of routed experts, one expert at a time, from tensors that are stored anyway.

An expert's gradient follows from what the layer's experts are given, how their outputs are weighted, and the gradient that
reaches their sum: three probes of a few hundred megabytes, where the gradients of all experts of DeepSeek-V3's layer are 45 GB.
So layer by layer they are neither kept nor stored, but made again where they are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from validation.case.parameters import EXPERTS
from validation.compare.precision import Unfilled, as_stored
from validation.reference.sources import Precision, Weights

PROBES = ("mlp_norm", "moe.router.weights")
"""What is read of the forward pass, by the part of a probe's name behind the layer."""
GRADIENT = "moe.routed"
"""What is read of the backward pass."""


@dataclass(frozen=True)
class ExpertGradients:
    """Of one layer. `given` and `arriving` are [tokens, hidden], `weights` [tokens, experts], zero where not chosen.

    `read` makes an expert's matrix by the parameter's name, in the dtype that is computed in. An expert's matrices are read
    once; what stays of them has a row for each of its tokens.
    """

    given: torch.Tensor
    weights: torch.Tensor
    arriving: torch.Tensor
    read: Callable[[str, int], torch.Tensor]
    _known: dict[tuple[str, int], dict[str, torch.Tensor]] = field(default_factory=dict, repr=False)

    def prepare(self, prefix: str) -> None:
        """Read the matrices of all experts now; `prefix` is what their names have before EXPERTS."""
        for expert in range(self.weights.shape[1]):
            self._of_expert(prefix, expert)

    @torch.no_grad()
    def of(self, name: str, expert: int, out: torch.Tensor | None = None) -> torch.Tensor:
        """The gradient of one expert's matrix, [rows, columns]; zeros for one that no token chose. `out` takes it."""
        prefix, _, matrix = name.partition(EXPERTS)
        known = self._of_expert(prefix, expert)
        with as_stored():
            tokens = known["tokens"]
            if matrix == "down_proj.weight":
                return torch.matmul(self._weighted(tokens, expert).T, known[matrix], out=out)
            return torch.matmul(known[matrix].T, self.given[tokens], out=out)

    def together(self, name: str, experts: Sequence[int]) -> torch.Tensor:
        """Those of several experts, [experts, rows, columns]."""
        inner, outer = self._of_expert(name.partition(EXPERTS)[0], experts[0])["up_proj.weight"].shape[1], self.given.shape[1]
        shape = (outer, inner) if name.endswith("down_proj.weight") else (inner, outer)
        with as_stored(), Unfilled():
            found = torch.empty((len(experts), *shape), dtype=self.given.dtype, device=self.given.device)
        for place, expert in enumerate(experts):
            self.of(name, expert, out=found[place])
        return found

    @torch.no_grad()
    def _of_expert(self, prefix: str, expert: int) -> dict[str, torch.Tensor]:
        """The expert's tokens, and by matrix the factor of its gradient that is [tokens, intermediate]."""
        if (prefix, expert) not in self._known:
            with as_stored():
                tokens = self.weights[:, expert].nonzero()[:, 0]
                x = self.given[tokens]
                gate, up = (functional.linear(x, self.read(f"{prefix}{EXPERTS}{half}.weight", expert)) for half in _HALVES)
                inner = self._weighted(tokens, expert) @ self.read(f"{prefix}{EXPERTS}down_proj.weight", expert)
                share = torch.sigmoid(gate)
                self._known[prefix, expert] = {
                    "tokens": tokens,
                    "down_proj.weight": functional.silu(gate) * up,
                    "up_proj.weight": inner * functional.silu(gate),
                    "gate_proj.weight": inner * up * share * (1 + gate * (1 - share)),
                }
        return self._known[prefix, expert]

    def _weighted(self, tokens: torch.Tensor, expert: int) -> torch.Tensor:
        """What arrives at the expert's own output, before the router's weight."""
        return self.arriving[tokens] * self.weights[tokens, expert, None]


_HALVES = ("gate_proj", "up_proj")


def expert_reader(weights: Weights, precision: Precision, device: torch.device) -> Callable[[str, int], torch.Tensor]:
    """How ExpertGradients reads matrices: rounded as the precision's weights are, in the truth's dtype."""

    def read(name: str, expert: int) -> torch.Tensor:
        _, rows, columns = weights.parameters[name].shape
        found = weights.read(name, (slice(expert, expert + 1), slice(0, rows), slice(0, columns)))[0]
        return precision.of(name, found.to(device))

    return read
