"""The candidate layer by layer: a rank builds one layer of the model at a time, compares what it holds of it, and lets it go.

Each layer is a model of megatron-core's with that layer alone, as the stage of a pipeline of as many stages would have it,
loaded, wrapped and finalised as a whole model is. What leaves a layer is kept; the way back takes up what has entered it,
computes the layer again and goes on with the gradient. Stages are those of validation.case.stages.
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

from validation.candidate import build, latent_norms, load, step
from validation.candidate.compare import compare_gradients
from validation.candidate.experts import Experts, ExpertsOf
from validation.candidate.place import device
from validation.candidate.probes import ProbedChunk
from validation.candidate.recorder import Recorder
from validation.candidate.step import Losses, loss_divisor, micro_batches
from validation.case.case import Case
from validation.case.stages import EMBEDDING
from validation.compare.precision import LOSS_DTYPES, as_stored
from validation.reference.kept import InFiles, Kept, add_rows, keep_rows
from validation.reference.sources import Weights, open_weights
from validation.reference.store import Reference

Plugin = Any
"""validation.run.plugin.Plugin, which lies in a room above."""
_RUN = "candidate"


def measure(
    case: Case, stored: Reference, recorder: Recorder, plugin: Plugin, folder: Path, progress: Callable[[str], None]
) -> int:
    """Everything that is compared, into the recorder; returns the bytes of the parameters of all layers of this rank."""
    stages = case.model.blocks
    build.start_random_numbers(case)
    weights = open_weights(case, stored.weights(case))
    rank = StreamedRank(case, stored, weights, plugin, InFiles(folder, device()))
    experts = Experts(case, stored, weights, recorder, device())
    held = 0
    for stage in stages[:-1]:
        progress(f"forward, layer {stage + 1} of {len(stages)}")
        held += rank.forward(stage, recorder)
        gc.collect()
    for stage in reversed(stages):
        progress(f"backward, layer {stage + 1} of {len(stages)}")
        held += rank.backward(stage, recorder, experts)
        gc.collect()
    recorder.close()
    shutil.rmtree(folder)
    return held


class StreamedRank:
    """This rank's way through the layers. What passes their borders is kept for each micro-batch."""

    def __init__(self, case: Case, stored: Reference, weights: Weights, plugin: Plugin, kept: Kept) -> None:
        self._case, self._stored, self._plugin, self._kept = case, stored, plugin, kept
        self._weights = weights
        self._divisor = loss_divisor(case, stored.batch)
        self._last = case.model.blocks[-1]

    def forward(self, stage: int, recorder: Recorder) -> int:
        """One stage without a graph: its weights and values are compared, and what it hands on is kept.

        Returns the bytes of its parameters.
        """
        chunk, held = self._loaded(stage, recorder, first=True)
        ProbedChunk(chunk, self._case, recorder, self._stored, self._weights, self._divisor)
        chunk.train()
        with torch.no_grad():
            for index, given in enumerate(micro_batches(self._case, self._stored.batch, 0)):
                self._enter(chunk, stage, index)
                self._kept.put(self._entering(stage + 1, index), step.called(self._case, chunk, given))
        size = _bytes(held)
        _let_go(chunk)
        return size

    def backward(self, stage: int, recorder: Recorder, experts: ExpertsOf) -> int:
        """One stage and back through it: its gradients are compared. The last stage has not been computed before.

        Returns the bytes of the parameters of a stage that has not.
        """
        first = stage == self._last
        chunk, held = self._loaded(stage, recorder, first)
        probed = ProbedChunk(chunk, self._case, recorder, self._stored, self._weights, self._divisor, values=first)
        (wrapped,) = build.wrap([chunk], self._case)
        self._plugin.wrapped(self._case, [wrapped])
        wrapped.train()
        wrapped.zero_grad_buffer()
        losses, tokens = Losses(self._case), torch.zeros((), dtype=torch.int, device=device())
        for index, given in enumerate(micro_batches(self._case, self._stored.batch, 0)):
            with nullcontext() if index == self._case.micro_batches - 1 else wrapped.no_sync():
                entered = self._enter(chunk, stage, index)
                output, arriving = step.called(self._case, wrapped, given), None
                if first:
                    output, counted, _ = losses.add(output, given["mask"])
                    tokens += counted
                else:
                    arriving = self._kept.get(self._arriving(stage + 1, index))
                torch.autograd.backward(output, arriving)
            if entered is not None and entered.grad is not None:
                self._kept.put(self._arriving(stage, index), entered.grad)
        if first:
            self._compare_loss(losses, recorder)
            self._kept.put(f"{_RUN}-tokens", tokens)
        chunk.config.finalize_model_grads_func([wrapped], self._kept.get(f"{_RUN}-tokens"))
        with as_stored():
            compare_gradients(self._shared_embedding(stage, held), self._stored, recorder, experts)
        probed.stop()
        size = _bytes(held) if first else 0
        _let_go(chunk, wrapped)
        return size

    def _shared_embedding(self, stage: int, held: load.Held) -> load.Held:
        """What is compared of a stage. An MTP layer's part of the embedding's gradient is added to that of the first stage.

        As the stages of a pipeline add them up, which hold the embedding twice.
        """
        if not self._case.model.mtp_layers or stage not in (0, self._last):
            return held
        compared = []
        for tensor, parts in held:
            if any(part.parameter.name == EMBEDDING for part in parts):
                if stage == self._last:
                    keep_rows(tensor.main_grad, self._kept, _RUN)  # type: ignore[attr-defined]
                    continue
                add_rows(tensor.main_grad, self._kept, _RUN)  # type: ignore[attr-defined]
            compared.append((tensor, parts))
        return compared

    def _loaded(self, stage: int, recorder: Recorder, first: bool) -> tuple[GPTModel, load.Held]:
        """The stage with its weights, which are compared the first time that they are loaded."""
        chunk = build.build_stage(self._case, stage, self._plugin.configure)
        latent_norms.give(self._case, [chunk], recorder if first else None)
        self._plugin.built(self._case, [chunk])
        held = load.held_by([chunk], self._case.model, recorder)
        with as_stored():
            load.load([chunk], recorder, lambda: load.copy_weights(held, self._weights))
            if first:
                load.compare_weights(held, self._weights, recorder)
        self._plugin.loaded(self._case, [chunk])
        return chunk, held

    def _enter(self, chunk: GPTModel, stage: int, index: int) -> torch.Tensor | None:
        """Give the stage what has left the one before; the first takes tokens."""
        if stage == 0:
            return None
        entered = self._kept.get(self._entering(stage, index))
        entered.requires_grad_(torch.is_grad_enabled())
        chunk.set_input_tensor(entered)
        return entered

    def _compare_loss(self, losses: Losses, recorder: Recorder) -> None:
        loss = losses.mean()
        if loss is not None:
            recorder.compare("loss", loss, (), self._stored.probes, dtype=LOSS_DTYPES[self._case.precision])

    def _entering(self, stage: int, index: int) -> str:
        return f"{_RUN}-{index}-{stage}"

    def _arriving(self, stage: int, index: int) -> str:
        return f"{_RUN}-{index}-gradient-{stage}"


def _bytes(held: load.Held) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor, _ in held)


def _let_go(chunk: GPTModel, wrapped: DistributedDataParallel | None = None) -> None:
    """Have the memory of a stage freed, whatever else still holds its modules.

    megatron-core's hooks on gradient accumulators hold the wrapped model, whose dispatchers hold tensors of the graph, which
    holds the accumulators: a circle through C++, which Python's collector does not see. Emptied, the wrapper holds nothing.
    """
    for parameter in chunk.parameters():
        vars(parameter).pop("main_grad", None)
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    if wrapped is not None:
        vars(wrapped).clear()
