"""What is compared while a model infers: hooks on the tensors that every position has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel

from validation.candidate.fused_router import seen_fused
from validation.candidate.probes import first_of
from validation.candidate.recorder import Recorder
from validation.candidate.replay import Choice, off_own_scores
from validation.case.case import Case
from validation.case.inference import (
    DECODE,
    FLIPS,
    GENERATION,
    IDLE,
    PREFILL,
    UPDATED,
    Inferred,
    expert_capacity,
    inferred,
)
from validation.compare.observe import Router
from validation.compare.precision import as_stored
from validation.inference.replay import Biases, Replay, Run
from validation.reference.store import Reference

Placed = Callable[[Inferred, torch.Tensor, int, int], None]
"""Takes what is computed of a tensor, [sequences, positions, ...], and the sequence and the position that it begins at."""


@dataclass
class Now:
    """Where a forward pass is: its phase, and the sequence and the position that its first token has in the whole batch.

    Of requests `runs` says that instead, token by token. `weights` is the prefix of phases with these weights.
    """

    phase: str = ""
    row: int = 0
    position: int = 0
    weights: str = ""
    runs: list[Run] = field(default_factory=list)


class Watch:
    """Hooks on one chunk of a model, which compare each tensor with the reference's part of the phase that is `now`."""

    def __init__(self, case: Case, chunk: GPTModel, recorder: Recorder, stored: Reference) -> None:
        self._case, self._recorder, self._stored = case, recorder, stored
        self._known, self._replay = inferred(case), Replay(case, recorder, stored)
        self._biases = Biases(case, stored)
        self.now, self._pads = Now(), expert_capacity(case) is not None
        for layer in chunk.decoder.layers:
            number = layer.layer_number - 1
            prefix = f"layers.{number}"
            layer.self_attention.linear_proj.register_forward_hook(self._output(f"{prefix}.attention.output"))
            layer.register_forward_hook(self._output(f"{prefix}.output"))
            if hasattr(layer.mlp, "router"):
                self._watch_router(layer.mlp.router, number)

    def returned(self, logits: torch.Tensor | None) -> None:
        """Compare what a forward pass returns, [sequences, positions, vocabulary]; None of a stage that has no logits.

        That is what a caller gets, behind all that is done with the output layer's logits.
        """
        if logits is not None:
            self._compare("logits", logits.transpose(0, 1))

    def _output(self, name: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            self._compare(name, first_of(output))

        return hook

    def _watch_router(self, router: Any, layer: int) -> None:
        routing, gating = router.routing, router.gating
        sizes: list[torch.Size] = []

        def seen_gating(*args: Any, **kwargs: Any) -> Any:
            logits = gating(*args, **kwargs)
            sizes.append(logits.shape)
            return logits

        def seen_routing(*args: Any, **kwargs: Any) -> Any:
            size = sizes.pop()
            choice = self._choice(layer, size)
            with Router(size[-1], choice.seen, choice.choose), seen_fused(choice.choose):
                weights, chosen = routing(*args, **kwargs)
            # Rows that fill experts up to their capacity stand in the map, too, with no weight.
            used = chosen & (weights != 0) if self._pads else chosen
            name = f"layers.{layer}.moe.router.experts"
            self._compare(name, choice.compared(used).view(size))
            with as_stored():
                off = off_own_scores(self._case, choice, self._biases.of(layer, self.now.weights))
            for kind, found in off.items():
                self._compare(name, found.view(size[:2]), functools.partial(self._own, kind))
            return weights, chosen

        router.gating, router.routing = seen_gating, seen_routing

    def _choice(self, layer: int, size: torch.Size) -> Choice:
        """What a router is to go on with for tokens of [sequence, batch, experts]."""
        length, rows, now = size[0], size[1], self.now
        if not self._replay.on or now.phase == IDLE:
            return Choice(None)
        if now.runs:
            return self._replay.choice(now.weights, layer, now.runs, length * rows)
        # One sequence behind the other, and then as megatron-core has them: the sequences side by side.
        runs = [Run(at * length, (at + 1) * length, now.row + at, now.position) for at in range(rows)]
        return self._replay.choice(now.weights, layer, runs, length * rows).turned(rows, length)

    def _compare(self, name: str, tensor: torch.Tensor, place: Placed | None = None) -> None:
        """Compare [sequence, batch, ...] with what the reference has of these sequences and positions, or as `place` does."""
        place = place or self._place
        with as_stored():
            found = tensor.detach().transpose(0, 1)
            if name == "logits":
                found = found[..., : self._case.model.vocab_size]  # behind it are rows that make the vocabulary divisible
            if self.now.runs:
                for run in self.now.runs:
                    self._request(name, found, run, place)
                return
            one = self._known.get(f"{self.now.phase}/{name}")
            if one is not None:
                place(one, found, self.now.row, self.now.position)

    def _request(self, name: str, tensor: torch.Tensor, run: Run, place: Placed) -> None:
        """The part of a step, [1, tokens, ...], that one request has: of its prompt, of what is decoded, or of both."""
        if self.now.weights == GENERATION:
            return
        for phase in (PREFILL, DECODE):
            one = self._known.get(f"{self.now.weights}{phase}/{name}")
            for row, first, last in one.runs if one else ():
                start, stop = max(first, run.position), min(last, run.position + run.stop - run.start)
                if one and row == run.row and start < stop:
                    at = run.start + start - run.position
                    place(one, tensor[:, at : at + stop - start], row, start)

    def _own(self, kind: str, one: Inferred, off: torch.Tensor, row: int, position: int) -> None:
        """Report the tokens, [sequences, positions], that chose otherwise than by their own scores, zero for the others."""
        (first, start), (rows, length) = one.place(row, position), off.shape
        box = ((first, first + rows), (start, start + length))
        self._recorder.measure(f"{kind}{one.name}", off, box, torch.zeros_like(off))

    def _place(self, one: Inferred, tensor: torch.Tensor, row: int, position: int) -> None:
        """Compare [sequences, positions, ...], which begin at this sequence and position of the batch."""
        rows, length, *rest = tensor.shape
        first, start = one.place(row, position)
        tokens = ((first, first + rows), (start, start + length))
        box = (*tokens, *((0, size) for size in rest))
        self._recorder.compare(one.name, tensor, box, self._stored.probes)
        if one.routes and self._replay.on:
            reference = self._recorder.file(self._stored.probes).read(one.name, tuple(slice(*ends) for ends in box))
            prefix = UPDATED if one.phase.startswith(UPDATED) else ""
            where = slice(row, row + rows), slice(position, position + length)
            margin = self._replay.margin(prefix, one.probe.layer or 0, *where)
            flipped = (tensor != reference.to(tensor.device)).any(-1)
            found = torch.where(flipped, margin.to(tensor.device), torch.zeros((), dtype=margin.dtype, device=tensor.device))
            self._recorder.measure(f"{FLIPS}{one.name}", found, tokens, torch.zeros_like(found))
