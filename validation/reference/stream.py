"""The reference layer by layer: no more than one layer of the model is held, however many there are.

Every run of the model (the truth, and below fp64 the floor's) goes through a layer before the next layer is loaded. What enters
a layer is kept in a file; the backward pass reads it and computes the layer again. A layer's tensors of the truth stay where
they were computed until the other runs have been measured against them, and are written as they come.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.case import Case
from validation.case.parameters import EXPERTS, parameters
from validation.compare.precision import DTYPES, as_stored, computing_in
from validation.reference import model as reference_model
from validation.reference.batch import Batch
from validation.reference.floor import VARIANTS, Variant
from validation.reference.ledger import Ledger
from validation.reference.record import Recording, layer_hooks, record_loss
from validation.reference.routing import Routing
from validation.reference.sources import Precision, Weights, truth_precision

OUTSIDE = {"embedding": ("model.embed_tokens.weight",), "head": ("model.norm.weight", "lm_head.weight")}
"""The parameters outside of the layers, by the part of the model that is held when they are."""


def record(case: Case, weights: Weights, batch: Batch, folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Write every probe, gradient and routing of the case's step into `folder`; returns the floor's facts."""
    # What is there before the first layer is not looked at again after every layer.
    gc.freeze()
    with ExitStack() as stack:
        stack.callback(gc.unfreeze)
        ledger = stack.enter_context(Ledger(case, folder, weights))
        groups = _groups(case, weights, batch, folder)
        for group in groups:
            with group.holding(OUTSIDE["embedding"]):
                for run in group.runs:
                    ledger.take(run.variant, run.begin())
        for layer in range(case.model.num_hidden_layers):
            progress(f"reference forward {layer + 1} of {case.model.num_hidden_layers}")
            for group in groups:
                with group.holding(_of_layer(case, layer)):
                    for run in group.runs:
                        ledger.take(run.variant, run.forward(layer, ledger.routing), layer)
        for group in groups:
            with group.holding(OUTSIDE["head"]):
                for run in group.runs:
                    ledger.take(run.variant, run.loss(), gradients=group.gradients(OUTSIDE["head"]), scale=run.scale)
        for layer in reversed(range(case.model.num_hidden_layers)):
            progress(f"reference backward {layer + 1} of {case.model.num_hidden_layers}")
            names = _of_layer(case, layer)
            for group in groups:
                with group.holding(names):
                    for run in group.runs:
                        found = run.backward(layer, ledger.routing)
                        ledger.take_gradients(run.variant, layer, found, group.gradients(names), run.scale)
        for group in groups:
            with group.holding(OUTSIDE["embedding"]):
                for run in group.runs:
                    found = run.end()
                    ledger.take_gradients(run.variant, None, found, group.gradients(OUTSIDE["embedding"]), run.scale)
        return ledger.facts()


def _of_layer(case: Case, layer: int) -> tuple[str, ...]:
    return tuple(name for name, parameter in parameters(case.model).items() if parameter.layer == layer)


def _groups(case: Case, weights: Weights, batch: Batch, folder: Path) -> list[_Group]:
    """The truth, and below fp64 the floor's runs, which share each layer's weights."""
    truth, dtype = truth_precision(case), DTYPES[case.precision]
    kept = folder / "boundaries"
    kept.mkdir()
    groups = [_Group(case, weights, truth, Precision(DTYPES[truth], dtype))]
    groups[0].add(batch, kept, None, 1.0)
    if case.precision != "fp64":
        groups.append(_Group(case, weights, case.precision, Precision(dtype, dtype)))
        scale = 2.0 ** int(batch.mask.sum()).bit_length()
        for variant in VARIANTS:
            groups[1].add(batch, kept, variant, scale)
    return groups


class _Group:
    """Runs with the same weights in the same precision: a model without storage, of which parts are held at times."""

    def __init__(self, case: Case, weights: Weights, computed_in: str, precision: Precision) -> None:
        self.case, self.computed_in = case, computed_in
        self._weights, self._precision = weights, precision
        self.runs: list[_Run] = []
        with computing_in(computed_in):
            self.hf = reference_model.without_weights(case.model)

    def add(self, batch: Batch, folder: Path, variant: Variant | None, scale: float) -> None:
        """One more run."""
        self.hf.model.rotary_emb.to(batch.tokens.device)
        number = len(self.runs)
        self.runs.append(
            _Run(self.case, self.hf, self.computed_in, batch, folder / f"{self.computed_in}-{number}", variant, scale)
        )
        self._device = batch.tokens.device

    @contextmanager
    def holding(self, names: tuple[str, ...]) -> Iterator[None]:
        """Within it these parameters are there, ready for a backward pass; behind it their storage is gone."""
        with as_stored():
            held = dict(self._values(names))
        for name, value in held.items():
            self._put(name, value)
        del held
        try:
            yield
        finally:
            for name in self._names(names):
                self._put(name, torch.empty((), device="meta"))
            gc.collect()

    def gradients(self, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """What has arrived at them, by the checkpoint's names; it is taken from them. The truth has none of experts."""
        found: dict[str, torch.Tensor] = {}
        for name in self._names(names):
            parameter = self.hf.get_parameter(name) if not name.endswith("_bias") else None
            if parameter is not None and parameter.requires_grad:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                found |= reference_model.by_checkpoint_name(name, gradient.detach())
                parameter.grad = None
        return found

    def _values(self, names: tuple[str, ...]) -> Iterator[tuple[str, torch.Tensor]]:
        """By transformers' names; experts are filled in one by one, so that no second copy of them all is ever there."""
        for name in names:
            if EXPERTS not in name:
                yield name, self._read(name)
            elif name.endswith("gate_proj.weight"):
                yield name.replace("gate_proj.weight", "gate_up_proj"), self._stacked(name, name.replace("gate_", "up_"))
            elif name.endswith("down_proj.weight"):
                yield name.removesuffix(".weight"), self._stacked(name)

    def _stacked(self, *names: str) -> torch.Tensor:
        experts, rows, columns = self._weights.parameters[names[0]].shape
        found = torch.empty((experts, rows * len(names), columns), dtype=self._precision.dtype, device=self._device)
        for expert in range(experts):
            for place, name in enumerate(names):
                index = (slice(expert, expert + 1), slice(0, rows), slice(0, columns))
                found[expert, place * rows : (place + 1) * rows] = self._read(name, index)[0]
        return found

    def _read(self, name: str, index: tuple[slice, ...] | None = None) -> torch.Tensor:
        return self._precision.of(name, self._weights.read(name, index).to(self._device))

    def _names(self, names: tuple[str, ...]) -> list[str]:
        """As transformers has them."""
        return [
            name.replace("gate_proj.weight", "gate_up_proj").removesuffix(".weight") if EXPERTS in name else name
            for name in names
            if not (EXPERTS in name and name.endswith("up_proj.weight"))
        ]

    def _put(self, name: str, value: torch.Tensor) -> None:
        path, _, last = name.rpartition(".")
        module = self.hf.get_submodule(path)
        if last in module._buffers:
            module._buffers[last] = value
            return
        # What the truth would have of experts is made again from its probes (validation.reference.experts).
        trained = value.device.type != "meta" and not (EXPERTS in name and self.runs[0].variant is None)
        module._parameters[last] = torch.nn.Parameter(value, requires_grad=trained)


class _Reached(Exception):
    """The first layer is about to be computed."""


@dataclass
class _Run:
    """One computation of the model. `arriving` is the gradient at what the layers behind have been given."""

    case: Case
    hf: DeepseekV3ForCausalLM
    computed_in: str
    batch: Batch
    kept: Path
    variant: Variant | None
    scale: float
    arriving: torch.Tensor | None = None
    further: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> Recording:
        """The embedding, and what every layer is given beside the hidden states: transformers' own, up to its first layer."""
        recording = self._recording(None)
        variant = self.variant or Variant()
        with self._computing(), ExitStack() as hooks:
            embedding = self.hf.model.embed_tokens
            hooks.callback(embedding.register_forward_hook(recording.output("embedding"), prepend=True).remove)
            hooks.callback(
                embedding.register_forward_hook(lambda *given: variant.move(given[-1]) if variant.moved else None).remove
            )
            hooks.callback(self.hf.model.layers[0].register_forward_pre_hook(self._reached, with_kwargs=True).remove)
            try:
                with torch.no_grad():
                    self.hf.model(input_ids=self.batch.tokens, use_cache=False)
            except _Reached:
                pass
        return recording

    def forward(self, layer: int, routing: Routing) -> Recording:
        """One layer, without a graph."""
        recording = self._recording(routing)
        with self._computing(), torch.no_grad():
            self._keep(layer + 1, self._layer(layer, self._kept(layer), recording))
        return recording

    def loss(self) -> Recording:
        """From the last layer's output to the loss and back."""
        recording = self._recording(None)
        with self._computing():
            hidden = self._kept(self.case.model.num_hidden_layers).requires_grad_()
            hook = self.hf.model.norm.register_forward_hook(recording.output("final_norm"))
            normed = self.hf.model.norm(hidden)
            hook.remove()
            total = record_loss(self.hf, self.case, self.batch, normed, recording)
            torch.autograd.backward(total * self.scale)
        self.arriving = hidden.grad
        return recording

    def backward(self, layer: int, routing: Routing) -> Recording:
        """One layer again, and back through it. The truth's values are recorded again: experts' gradients need them."""
        recording = self._recording(routing, values=self.variant is None)
        with self._computing():
            given = self._kept(layer).requires_grad_()
            torch.autograd.backward(self._layer(layer, given, recording), self.arriving)
        self.arriving = given.grad
        return recording

    def end(self) -> Recording:
        """Back through the embedding."""
        recording = self._recording(None, values=False)
        with self._computing():
            output = self.hf.model.embed_tokens(self.batch.tokens)
            recording.keep("embedding", output)
            torch.autograd.backward(output, self.arriving)
        return recording

    def _layer(self, layer: int, hidden: torch.Tensor, recording: Recording) -> torch.Tensor:
        module = self.hf.model.layers[layer]
        hooks = layer_hooks(module, self.case.model, layer, self.batch, recording)
        try:
            with recording.attention({module.self_attn: f"layers.{layer}"}):
                output = module(hidden, **self.further)
        finally:
            for hook in hooks:
                hook.remove()
        found: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return found

    def _reached(self, module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        self.further = {name: value for name, value in keywords.items() if name != "hidden_states"}
        self._keep(0, arguments[0] if arguments else keywords["hidden_states"])
        raise _Reached

    def _recording(self, routing: Routing | None, values: bool = True) -> Recording:
        """The truth's routers choose for themselves, the others' go on with its choice."""
        return Recording(routing if self.variant else None, in_place=True, values=values)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        chosen = self.variant or Variant()
        with computing_in(self.computed_in), reference_model.computing_with(self.hf, chosen.attention, chosen.experts):
            yield

    def _keep(self, layer: int, hidden: torch.Tensor) -> None:
        """What enters a layer, or leaves the last."""
        torch.save(hidden.detach().cpu(), f"{self.kept}-{layer}.pt")

    def _kept(self, layer: int) -> torch.Tensor:
        with as_stored():
            found: torch.Tensor = torch.load(f"{self.kept}-{layer}.pt", weights_only=True).to(self.batch.tokens.device)
            return found
