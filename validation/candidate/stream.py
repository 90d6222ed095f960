"""The candidate layer by layer: a rank builds one layer of the model at a time, compares what it holds of it, and lets it go.

Each layer is a model of megatron-core's with that layer alone, as the stage of a pipeline of as many stages would have it,
loaded, wrapped and finalised as a whole model is. What leaves a layer is kept in a file; the way back reads what has entered
it, computes the layer again and goes on with the gradient.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel

from validation.candidate import build, latent_norms, load
from validation.candidate.compare import compare_gradients
from validation.candidate.experts import Experts
from validation.candidate.place import device
from validation.candidate.probes import ProbedChunk
from validation.candidate.recorder import Recorder
from validation.candidate.step import Losses, called, loss_divisor, micro_batches
from validation.case.case import Case
from validation.compare.precision import LOSS_DTYPES, as_stored
from validation.reference.sources import open_weights
from validation.reference.store import Reference

Plugin = Any
"""validation.run.plugin.Plugin, which lies in a room above."""


def measure(
    case: Case, stored: Reference, recorder: Recorder, plugin: Plugin, folder: Path, progress: Callable[[str], None]
) -> int:
    """Everything that is compared, into the recorder; returns the bytes of the parameters of all layers of this rank."""
    folder.mkdir()
    build.start_random_numbers(case)
    layers = range(case.model.num_hidden_layers)
    rank = _Rank(case, stored, recorder, plugin, folder)
    for layer in layers[:-1]:
        progress(f"forward, layer {layer + 1} of {len(layers)}")
        rank.forward(layer)
        gc.collect()
    for layer in reversed(layers):
        progress(f"backward, layer {layer + 1} of {len(layers)}")
        rank.backward(layer, first=layer == layers[-1])
        gc.collect()
    recorder.close()
    shutil.rmtree(folder)
    return rank.held


class _Rank:
    """This rank's way through the layers. `_arriving` holds, for each micro-batch, the gradient at what has entered a layer."""

    def __init__(self, case: Case, stored: Reference, recorder: Recorder, plugin: Plugin, folder: Path) -> None:
        self._case, self._stored, self._recorder, self._plugin = case, stored, recorder, plugin
        self._folder, self.held = folder, 0
        self._weights = open_weights(case, stored.weights(case))
        self._divisor = loss_divisor(case, stored.batch)
        self._device = device()
        self._experts = Experts(case, stored, self._weights, recorder, self._device)
        self._losses = Losses(case)
        self._tokens = torch.zeros((), dtype=torch.int, device=self._device)
        self._arriving: list[torch.Tensor] = []

    def forward(self, layer: int) -> None:
        """One layer without a graph: its weights and values are compared, and what it hands on is kept."""
        chunk, _ = self._loaded(layer, first=True)
        ProbedChunk(chunk, self._case, self._recorder, self._stored, self._weights, self._divisor)
        chunk.train()
        with torch.no_grad():
            for index, given in enumerate(micro_batches(self._case, self._stored.batch, 0)):
                self._enter(chunk, layer, index)
                torch.save(called(self._case, chunk, given).detach().cpu(), self._kept(layer + 1, index))

    def backward(self, layer: int, first: bool) -> None:
        """One layer and back through it: its gradients are compared. `first` says that it has not been computed before."""
        chunk, held = self._loaded(layer, first)
        probed = ProbedChunk(chunk, self._case, self._recorder, self._stored, self._weights, self._divisor, values=first)
        (wrapped,) = build.wrap([chunk], self._case)
        self._plugin.wrapped(self._case, [wrapped])
        wrapped.train()
        wrapped.zero_grad_buffer()
        arrived = []
        for index, given in enumerate(micro_batches(self._case, self._stored.batch, 0)):
            last = index == self._case.micro_batches - 1
            with nullcontext() if last else wrapped.no_sync():
                entered = self._enter(chunk, layer, index)
                output = called(self._case, wrapped, given)
                if first:
                    output = self._loss(output, given["mask"])
                torch.autograd.backward(output, None if first else self._arriving[index])
            if entered is not None and entered.grad is not None:
                arrived.append(entered.grad)
        self._arriving = arrived
        if first:
            self._compare_loss()
        chunk.config.finalize_model_grads_func([wrapped], self._tokens.clone())
        with as_stored():
            compare_gradients(held, self._stored, self._recorder, self._experts)
        probed.stop()
        _let_go(wrapped)

    def _loaded(self, layer: int, first: bool) -> tuple[GPTModel, load.Held]:
        """The layer with its weights, which are compared the first time that they are loaded."""
        chunk = build.build_layer(self._case, layer, self._plugin.configure)
        latent_norms.give(self._case, [chunk], self._recorder if first else None)
        self._plugin.built(self._case, [chunk])
        held = load.held_by([chunk], self._case.model, self._recorder)
        with as_stored():
            load.load([chunk], self._recorder, lambda: load.copy_weights(held, self._weights))
            if first:
                load.compare_weights(held, self._weights, self._recorder)
                self.held += sum(tensor.numel() * tensor.element_size() for tensor, _ in held)
        self._plugin.loaded(self._case, [chunk])
        return chunk, held

    def _enter(self, chunk: GPTModel, layer: int, index: int) -> torch.Tensor | None:
        """Give the layer what has left the one before; the first layer takes tokens."""
        if layer == 0:
            return None
        with as_stored():
            entered: torch.Tensor = torch.load(self._kept(layer, index), weights_only=True).to(self._device)
        entered.requires_grad_(torch.is_grad_enabled())
        chunk.set_input_tensor(entered)
        return entered

    def _loss(self, output: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        total, tokens, _ = self._losses.add(output, mask)
        self._tokens += tokens
        return total

    def _compare_loss(self) -> None:
        loss = self._losses.mean()
        if loss is not None:
            self._recorder.compare("loss", loss, (), self._stored.probes, dtype=LOSS_DTYPES[self._case.precision])

    def _kept(self, layer: int, index: int) -> Path:
        return self._folder / f"{layer}-{index}.pt"


def _let_go(wrapped: DistributedDataParallel) -> None:
    """Have a layer freed when nothing else holds it.

    megatron-core's hooks on gradient accumulators hold the wrapped model, whose dispatchers hold tensors of the graph, which
    holds the accumulators: a circle through C++, which Python's collector does not see. Emptied, the wrapper holds nothing.
    """
    vars(wrapped).clear()
