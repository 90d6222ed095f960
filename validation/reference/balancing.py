"""The losses that balance the experts' loads, which transformers does not have: written from the reports that define them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from validation.case.case import Case
from validation.reference.batch import Batch, real_in


def sequence_balance(logits: torch.Tensor, chosen: int, real: torch.Tensor | None = None, sigmoid: bool = True) -> torch.Tensor:
    """The balance loss of each group of tokens, [groups], before its coefficient; logits are [groups, tokens, experts].

    `real` says which tokens there are, [groups, tokens]: the others are padding. None stands for all.

    DeepSeek-V3 report (arXiv 2412.19437), equations 17 to 20: the sum over the experts of f P, where f is the share of the
    tokens whose `chosen` highest scores hold the expert, times experts / chosen, and P is the mean of the expert's share of
    a token's scores. Scores are affinities: neither the expert bias nor the limit on groups of experts is in them. Without
    `sigmoid` they are DeepSeek-V2's, a softmax (arXiv 2405.04434, equations 23 to 25).
    """
    scores = torch.sigmoid(logits) if sigmoid else torch.softmax(logits, dim=-1)
    experts = logits.shape[-1]
    top = torch.zeros_like(scores).scatter(-1, scores.topk(chosen, dim=-1).indices, 1.0)
    frequency = _mean(top, real) * experts / chosen
    probability = _mean(scores / scores.sum(-1, keepdim=True), real)
    return (frequency * probability).sum(-1)


def _mean(values: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """The mean over the tokens that are there: [groups, tokens, ...] -> [groups, ...]."""
    if real is None:
        return values.mean(1)
    counted = real.view(*real.shape, *(1,) * (values.dim() - 2)).to(values)
    return (values * counted).sum(1) / counted.sum(1).clamp(min=1)


def z_loss(logits: torch.Tensor) -> torch.Tensor:
    """The mean over the tokens of logsumexp(logits)^2 before its coefficient (ST-MoE, arXiv 2202.08906, equation 5)."""
    return torch.logsumexp(logits, dim=-1).square().mean()


def _z_loss_of_micro_batches(case: Case, logits: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """The same as a mean over micro-batches, which have different numbers of tokens where some are padding."""
    if real is None:
        return z_loss(logits)
    by_micro_batch = (-1, case.micro_batch_size * real.shape[1])
    squares = torch.logsumexp(logits, dim=-1).square()
    return _mean(squares.reshape(by_micro_batch), real.reshape(by_micro_batch)).mean()


def layer_loss(case: Case, logits: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
    """One layer's loss before its coefficient; logits are [batch, sequence, experts], `real` is [batch, sequence].

    `seq_aux_loss` balances each sequence and is averaged over them. `aux_loss` balances the tokens that go through the layer
    together, a micro-batch, and is averaged over these.
    """
    if case.training.balancing == "z_loss":
        return _z_loss_of_micro_batches(case, logits, real)
    if case.training.balancing == "aux_loss":
        together = case.micro_batch_size * logits.shape[1]
        logits = logits.reshape(-1, together, logits.shape[2])
        real = None if real is None else real.reshape(-1, together)
    return sequence_balance(logits, case.model.num_experts_per_tok, real, case.model.sigmoid).mean()


class Balance:
    """The balancing losses of a step, from what the routers' logits are while it is watching.

    `gates` are the routers by layer. Every token that a router sees and that is no padding counts, an MTP layer's filler among
    them, as in megatron-core (validation.reference.mtp).
    """

    def __init__(self, gates: Mapping[int, Any], case: Case) -> None:
        self._case = case
        self._gates = gates if case.training.balancing != "none" else {}
        self._logits: dict[int, torch.Tensor] = {}
        self._batch: Batch | None = None

    @contextmanager
    def watching(self, batch: Batch) -> Iterator[None]:
        """Take in the logits of the forward pass of the batch within it."""
        self._batch = batch
        hooks = [gate.register_forward_hook(self._take(layer)) for layer, gate in self._gates.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def losses(self) -> dict[int, torch.Tensor]:
        """Each layer's loss before its coefficient."""
        shape = (self._case.batch_size, self._case.seq_length, -1)
        return {layer: layer_loss(self._case, logits.view(shape), self._of(layer)) for layer, logits in self._logits.items()}

    def total(self) -> torch.Tensor | float:
        """What the losses add to the step's loss; a z-loss may stand beside another."""
        coefficient, beside = self._case.training.balance_coefficient, self._case.training.z_coefficient
        total: torch.Tensor | float = sum((coefficient * loss for loss in self.losses().values()), 0.0)
        if not beside:
            return total
        shape = (self._case.batch_size, self._case.seq_length, -1)
        z_losses = (
            _z_loss_of_micro_batches(self._case, logits.view(shape), self._of(layer)) for layer, logits in self._logits.items()
        )
        return total + sum((beside * loss for loss in z_losses), 0.0)

    def _of(self, layer: int) -> torch.Tensor | None:
        return None if self._batch is None else real_in(layer, self._batch, self._case.model)

    def _take(self, layer: int) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            self._logits[layer] = output[0]

        return hook
