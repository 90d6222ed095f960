"""Parameter gradients as the ranks have them before megatron-core reduces them, added up by other means."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from validation.candidate.load import Held, together
from validation.candidate.recorder import Recorder
from validation.candidate.weights import Holding
from validation.case.case import Case
from validation.case.parameters import EXPERTS
from validation.case.steps import UNREDUCED
from validation.compare.piece import whole
from validation.compare.precision import as_stored
from validation.reference.store import Reference


class Unreduced:
    """Adds up each parameter's gradients over the ranks that hold it, when megatron-core is about to do the same.

    Where this sum is right and the gradient that megatron-core leaves is not, the backward pass is right and the reduction
    is wrong; where it is wrong too, the backward pass is. `divisor` is what the sum is divided by afterwards.
    """

    def __init__(self, case: Case, held: Held, recorder: Recorder, reference: Reference, divisor: float) -> None:
        self._case, self._held, self._recorder, self._reference = case, held, recorder, reference
        self._divisor, self._done = divisor, False

    def watch(self, config: Any) -> None:
        """Look at the gradients when the first finalize_model_grads of this configuration begins."""
        finalize = config.finalize_model_grads_func

        def seen(*args: Any, **kwargs: Any) -> Any:
            if not self._done:
                self._done = True
                with torch.no_grad(), as_stored():
                    self._compare()
            return finalize(*args, **kwargs)

        config.finalize_model_grads_func = seen

    def _compare(self) -> None:
        by_group: dict[Any, list[tuple[Holding, torch.Tensor]]] = defaultdict(list)
        for tensor, parts in self._held:
            for part in parts:
                gradient = getattr(tensor, "main_grad", None)
                if part.parameter.trained and gradient is not None and not self._shared(part):
                    by_group[self._holders(part)].append((part, part.of(gradient)))
        for group, found in by_group.items():
            flat = torch.cat([gradient.reshape(-1) for _, gradient in found])
            dist.all_reduce(flat, group=group)
            flat /= self._divisor
            sums = flat.split([gradient.numel() for _, gradient in found])
            added = [(part, total.view(gradient.shape)) for (part, gradient), total in zip(found, sums, strict=True)]
            for parameter, box, value in together(added):
                name = f"{UNREDUCED}{parameter.name}"
                self._recorder.compare(name, value, box, self._reference.gradients, key=parameter.name)

    def _shared(self, part: Holding) -> bool:
        """Word embeddings that several pipeline stages hold are added up over those, too: left to the final gradient."""
        return part.parameter.name == "model.embed_tokens.weight" and self._case.layout.pp > 1

    def _holders(self, part: Holding) -> Any:
        """The ranks whose gradients of this part add up to the whole: all that hold it and have seen other tokens.

        Under sequence parallelism tensor-parallel ranks see other tokens where they hold the same parameter.
        """
        if EXPERTS in part.parameter.name:
            return parallel_state.get_expert_data_parallel_group()
        same = part.box == whole(part.parameter.shape)
        if same and self._case.layout.uses_sequence_parallel:
            return parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)
        return parallel_state.get_data_parallel_group(with_context_parallel=True)
