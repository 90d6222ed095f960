"""What is compared while a model infers: hooks on the tensors that every position has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel

from validation.candidate.probes import first_of
from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.case.inference import DECODE, PREFILL, Inferred, inferred
from validation.compare.precision import as_stored
from validation.reference.store import Reference


@dataclass
class Now:
    """Where a forward pass is: its phase, and the sequence and the position that its first token has in the whole batch."""

    phase: str = ""
    row: int = 0
    position: int = 0


@dataclass(frozen=True)
class Run:
    """Tokens of a step, from `start` to `stop`, that one request has in a row, from `position` on."""

    start: int
    stop: int
    row: int
    position: int


class Watch:
    """Hooks on one chunk of a model, which compare each tensor with the reference's part of the phase that is `now`."""

    def __init__(self, case: Case, chunk: GPTModel, recorder: Recorder, stored: Reference) -> None:
        self._case, self._recorder, self._stored = case, recorder, stored
        self._known = inferred(case)
        self.now = Now()
        self._prefix, self._runs = "", list[Run]()
        for layer in chunk.decoder.layers:
            prefix = f"layers.{layer.layer_number - 1}"
            layer.self_attention.linear_proj.register_forward_hook(self._output(f"{prefix}.attention.output"))
            layer.register_forward_hook(self._output(f"{prefix}.output"))
            if hasattr(layer.mlp, "router"):
                self._watch_router(layer.mlp.router, f"{prefix}.moe.router.experts")
        if chunk.post_process:
            chunk.output_layer.register_forward_hook(self._output("logits"))

    def follow(self, prefix: str, runs: list[Run]) -> None:
        """Of requests: what the tokens of the next step are, in their order, with the weights of `prefix`."""
        self._prefix, self._runs = prefix, runs

    def _output(self, name: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            self._compare(name, first_of(output))

        return hook

    def _watch_router(self, router: Any, name: str) -> None:
        routing, gating = router.routing, router.gating
        sizes: list[torch.Size] = []

        def seen_gating(*args: Any, **kwargs: Any) -> Any:
            logits = gating(*args, **kwargs)
            sizes.append(logits.shape)
            return logits

        def seen_routing(*args: Any, **kwargs: Any) -> Any:
            weights, chosen = routing(*args, **kwargs)
            self._compare(name, chosen.view(sizes.pop()))
            return weights, chosen

        router.gating, router.routing = seen_gating, seen_routing

    def _compare(self, name: str, tensor: torch.Tensor) -> None:
        """Compare [sequence, batch, ...] with what the reference has of these sequences and positions."""
        with as_stored():
            found = tensor.detach().transpose(0, 1)
            if name == "logits":
                found = found[..., : self._case.model.vocab_size]  # behind it are rows that make the vocabulary divisible
            if self._runs:
                for run in self._runs:
                    self._request(name, found, run)
                return
            one = self._known.get(f"{self.now.phase}/{name}")
            if one is not None:
                self._place(one, found, self.now.row, self.now.position - one.start)

    def _request(self, name: str, tensor: torch.Tensor, run: Run) -> None:
        """The part of a step, [1, tokens, ...], that one request has: of its prompt, of what is decoded, or of both."""
        for phase in (PREFILL, DECODE):
            one, before = self._known.get(f"{self._prefix}{phase}/{name}"), 0
            for row, first, last in one.runs if one else ():
                start, stop = max(first, run.position), min(last, run.position + run.stop - run.start)
                if one and row == run.row and start < stop:
                    at = run.start + start - run.position
                    self._place(one, tensor[:, at : at + stop - start], 0, before + start - first)
                before += last - first

    def _place(self, one: Inferred, tensor: torch.Tensor, row: int, start: int) -> None:
        rows, length, *rest = tensor.shape
        box = ((row, row + rows), (start, start + length), *((0, size) for size in rest))
        self._recorder.compare(one.name, tensor, box, self._stored.probes)
