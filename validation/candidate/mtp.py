"""What multi-token prediction adds to the loss of training on the Megatron side.

It never leaves megatron-core's model: it enters the backward pass as a gradient of the token losses (MTPLossAutoScaler). Since
it is linear in them, it is the sum of each token loss times the gradient that reaches it: the weight, the mask and the division
by the number of tokens are those that training has, whatever megatron-core writes into its log.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from megatron.core import parallel_state


class MtpLosses:
    """The losses of the MTP layers of one chunk, by probe, over this rank's micro-batches."""

    def __init__(self, tokens: float) -> None:
        self._tokens = tokens
        self._sums: dict[str, list[torch.Tensor]] = defaultdict(list)

    def watch(self, probe: str, token_losses: torch.Tensor) -> None:
        """Take in one micro-batch's token losses once their gradient is known; a forward pass alone has none."""
        if not token_losses.requires_grad:
            return
        losses = token_losses.detach().clone()

        def add(gradient: torch.Tensor) -> None:
            self._sums[probe].append((losses.double() * gradient.double()).sum() / self._tokens)

        token_losses.register_hook(add)

    def totals(self) -> dict[str, torch.Tensor]:
        """Each probe's loss over all ranks that hold a part of the batch; empty where the MTP layers are elsewhere.

        What is taken in after this is of another step.
        """
        totals = {probe: torch.stack(sums).sum() for probe, sums in sorted(self._sums.items())}
        self._sums.clear()
        for total in totals.values():
            torch.distributed.all_reduce(total, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        return totals
