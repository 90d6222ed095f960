"""The reference layer by layer: no more than one layer of the model is held, however many there are.

Every run of the model (the truth, and below fp64 the floor's) goes through a layer before the next layer is made. What leaves a
layer is kept; the backward pass takes it up again and computes the layer once more. The experts of a layer are held once for
all runs, in the dtype of the case's weights (validation.reference.lent). A layer's tensors of the truth stay where they were
computed until the other runs have been measured against them.
Stages are those of validation.case.stages.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_layers import MtpModel

from validation.case.case import Case
from validation.case.parameters import EXPERTS, parameters
from validation.case.stages import EMBEDDING, of_stage
from validation.compare.precision import DTYPES, as_stored, computing_in
from validation.reference import model as reference_model
from validation.reference import mtp as reference_mtp
from validation.reference.batch import Batch
from validation.reference.floor import VARIANTS, Variant
from validation.reference.kept import InFiles, Kept, add_rows, keep_rows
from validation.reference.ledger import Files, Ledger
from validation.reference.lent import Numbers, Stack
from validation.reference.record import Recording, beside_tokens, layer_hooks, record_loss
from validation.reference.routing import Routing
from validation.reference.sources import Precision, Weights, truth_precision

GATE_UP, DOWN = "gate_up_proj", "down_proj"


def record(case: Case, weights: Weights, batch: Batch, folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Write every probe, gradient and routing of the case's step into `folder`; returns the floor's facts."""
    # What is there before the first layer is not looked at again after every layer.
    gc.freeze()
    with ExitStack() as stack:
        stack.callback(gc.unfreeze)
        ledger = Ledger(case, weights, stack.enter_context(Files(case, folder)))
        reference = Streamed(case, weights, batch, InFiles(folder / "boundaries", batch.tokens.device))
        for stage in case.model.blocks[:-1]:
            progress(f"reference forward {stage + 1} of {len(case.model.blocks)}")
            reference.forward(stage, ledger)
        for stage in reversed(case.model.blocks):
            progress(f"reference backward {stage + 1} of {len(case.model.blocks)}")
            reference.backward(stage, ledger)
        return ledger.facts()


class Streamed:
    """The truth and the floor's runs, a stage at a time."""

    def __init__(self, case: Case, weights: Weights, batch: Batch, kept: Kept) -> None:
        self._case, self._weights, self._device, self._kept = case, weights, batch.tokens.device, kept
        truth, dtype = truth_precision(case), DTYPES[case.precision]
        self._sides = [Side(case, truth, Precision(DTYPES[truth], dtype), self._device)]
        self._runs = [Run(case, self._sides[0], batch, kept, f"{truth}-0", None, 1.0)]
        if case.precision != "fp64":
            self._sides.append(Side(case, case.precision, Precision(dtype, dtype), self._device))
            scale = 2.0 ** int(batch.mask.sum()).bit_length()
            for number, variant in enumerate(VARIANTS):
                name = f"{case.precision}-{number + 1}"
                self._runs.append(Run(case, self._sides[1], batch, kept, name, variant, scale))

    def forward(self, stage: int, ledger: Ledger) -> None:
        """The values of every run; not for the last stage, which goes back at once."""
        with self._holding(stage) as experts:
            for run in self._runs:
                with run.side.lending(stage, experts, run.variant):
                    ledger.take(run.variant, run.forward(stage, ledger.routing), stage)

    def backward(self, stage: int, ledger: Ledger) -> None:
        """The gradients of every run. In the last stage its values, too."""
        last = stage == self._case.model.blocks[-1]
        with self._holding(stage) as experts:
            for run in self._runs:
                self._back(stage, ledger, run, experts, last)

    def _back(self, stage: int, ledger: Ledger, run: Run, experts: Experts, last: bool) -> None:
        def seen(found: Recording) -> None:
            ledger.take(run.variant, found, stage)

        def arrived(name: str, expert: int, gradient: torch.Tensor) -> None:
            ledger.take_expert(name, expert, gradient, run.scale)

        with run.side.lending(stage, experts, run.variant, arrived):
            found = run.backward(stage, ledger.routing, seen if last else None)
        if run.variant is None:
            ledger.begin_gradients(stage, found, experts.of)
        ledger.take_gradients(run.variant, found, self._gradients(stage, run), run.scale)

    def _gradients(self, stage: int, run: Run) -> dict[str, torch.Tensor]:
        """Of the stage's parameters but its experts. Those of the embedding in an MTP layer are part of another stage's."""
        found = run.side.gradients(of_stage(self._case.model, stage))
        if EMBEDDING not in found or not self._case.model.mtp_layers:
            return found
        if stage == 0:
            return {**found, EMBEDDING: add_rows(found[EMBEDDING], self._kept, run.name)}
        keep_rows(found.pop(EMBEDDING), self._kept, run.name)
        return found

    def _holding(self, stage: int) -> AbstractContextManager[Experts]:
        return holding(self._case, self._weights, self._sides, stage, self._device)


@contextmanager
def holding(case: Case, weights: Weights, sides: Sequence[Side], stage: int, device: torch.device) -> Iterator[Experts]:
    """Within it the stage's parameters are there, ready for a backward pass; behind it their storage is gone."""
    names = of_stage(case.model, stage)
    own = [name for name in names if EXPERTS not in name]
    with as_stored():
        for side in sides:
            for name in own:
                side.put(name, side.precision.of(name, weights.read(name).to(device)))
        experts = Experts.read(case, weights, [name for name in names if EXPERTS in name], device)
    try:
        yield experts
    finally:
        experts.held.clear()
        for side in sides:
            for name in own:
                side.put(name, torch.empty((), device="meta"))
        gc.collect()


@dataclass(frozen=True)
class Experts:
    """The routed experts of one stage, stacked, by transformers' names within a layer; in the dtype of the case's weights."""

    truth: torch.dtype
    held: dict[str, torch.Tensor]

    @classmethod
    def read(cls, case: Case, weights: Weights, names: list[str], device: torch.device) -> Experts:
        """Of these parameters, filled in one by one, so that no second copy of them all is ever there."""
        matrices = {name.partition(EXPERTS)[2].removesuffix(".weight"): name for name in names}
        dtype, held = DTYPES[case.precision], {}
        for key, parts in ((GATE_UP, ("gate_proj", "up_proj")), (DOWN, ("down_proj",))) if matrices else ():
            stacked = [matrices[part] for part in parts]
            count, rows, columns = weights.parameters[stacked[0]].shape
            found = torch.empty((count, rows * len(parts), columns), dtype=dtype, device=device)
            for expert in range(count):
                for place, name in enumerate(stacked):
                    index = (slice(expert, expert + 1), slice(0, rows), slice(0, columns))
                    found[expert, place * rows : (place + 1) * rows] = weights.read(name, index)[0]
            held[key] = found
        return cls(DTYPES[truth_precision(case)], held)

    def of(self, name: str, expert: int) -> torch.Tensor:
        """One expert's matrix by the checkpoint's name, in the truth's dtype."""
        matrix = name.partition(EXPERTS)[2].removesuffix(".weight")
        if matrix == DOWN:
            return self.held[DOWN][expert].to(self.truth)
        return self.held[GATE_UP][expert].chunk(2)[matrix == "up_proj"].to(self.truth)


ExpertArrived = Callable[[str, int, torch.Tensor], None]
"""What takes an expert's gradient, by the checkpoint's name."""


class Side:
    """Runs with the same weights in the same precision: a model without storage, of which parts are held at times."""

    def __init__(self, case: Case, computed_in: str, precision: Precision, device: torch.device) -> None:
        self.case, self.computed_in, self.precision = case, computed_in, precision
        self.mtp: MtpModel | None = None
        with computing_in(computed_in):
            self.hf = reference_model.without_weights(case.model)
            if case.model.mtp_layers:
                with torch.device("meta"):
                    self.mtp = MtpModel(self.hf, case.model.num_nextn_predict_layers).train()
        self.hf.model.rotary_emb.to(device)
        for block in reference_mtp.blocks(self.hf, self.mtp):
            for name in (GATE_UP, DOWN) if hasattr(block.mlp, "experts") else ():
                del block.mlp.experts._parameters[name]

    @contextmanager
    def lending(
        self, stage: int, experts: Experts, variant: Variant | None, arrived: ExpertArrived | None = None
    ) -> Iterator[None]:
        """Within it the stage's experts can be computed with. `arrived` takes the gradients of a run that has any."""
        block = reference_mtp.blocks(self.hf, self.mtp)[stage]
        if not experts.held:
            yield
            return
        module, wanted = block.mlp.experts, None if variant is None else arrived
        grouped = variant is not None and variant.experts != "eager" and module.config is self.hf.config
        leaves, numbers = {}, Numbers()
        for name, held in experts.held.items():
            taken = None if wanted is None else _split(stage, name, wanted)
            if grouped:
                leaves[name] = module.__dict__[name] = held.detach().requires_grad_(taken is not None)
            else:
                module.__dict__[name] = Stack(held, self.precision.dtype, taken, numbers)
        try:
            yield
            for name, leaf in leaves.items():
                if wanted is not None and leaf.grad is not None:
                    for expert, gradient in enumerate(leaf.grad):
                        _split(stage, name, wanted)(expert, gradient)
        finally:
            for name in experts.held:
                del module.__dict__[name]

    def gradients(self, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """What has arrived at the parameters that are no expert's, by the checkpoint's names; it is taken from them."""
        found: dict[str, torch.Tensor] = {}
        for name in names:
            if EXPERTS in name or not parameters(self.case.model)[name].trained:
                continue
            module, last = self._place(name)
            parameter = module._parameters[last]
            found[name] = (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).detach()
            parameter.grad = None
        return found

    def put(self, name: str, value: torch.Tensor) -> None:
        """Have a parameter, by the checkpoint's name, hold a value; one on `meta` for none."""
        module, last = self._place(name)
        if last in module._buffers:
            module._buffers[last] = value
        else:
            module._parameters[last] = torch.nn.Parameter(value, requires_grad=value.device.type != "meta")

    def _place(self, name: str) -> tuple[Any, str]:
        if self.mtp is not None and parameters(self.case.model)[name].mtp is not None:
            root, name = self.mtp.layers, reference_mtp.to_transformers(name, self.case.model)
        else:
            root = self.hf
        path, _, last = name.rpartition(".")
        return root.get_submodule(path), last


def _split(stage: int, name: str, arrived: ExpertArrived) -> Callable[[int, torch.Tensor], None]:
    """What takes the gradient of a matrix as transformers has it, gate and up in one, and hands on the checkpoint's."""
    prefix = f"model.layers.{stage}.{EXPERTS}"

    def take(expert: int, gradient: torch.Tensor) -> None:
        if name == DOWN:
            arrived(f"{prefix}down_proj.weight", expert, gradient)
            return
        for matrix, part in zip(("gate_proj", "up_proj"), gradient.chunk(2), strict=True):
            arrived(f"{prefix}{matrix}.weight", expert, part)

    return take


class _Reached(Exception):
    """The first layer is about to be computed."""


@dataclass
class Run:
    """One computation of the model."""

    case: Case
    side: Side
    batch: Batch
    kept: Kept
    name: str
    variant: Variant | None
    scale: float
    further: dict[str, Any] = field(default_factory=dict)

    def forward(self, stage: int, routing: Routing, recording: Recording | None = None) -> Recording:
        """One stage, without a graph; what is seen of it goes into `recording`, a new one where none is given."""
        recording = recording or self._recording(routing)
        with self._computing(), torch.no_grad():
            entered = None if stage == 0 else self.kept.get(self._entering(stage))
            self.kept.put(self._entering(stage + 1), self._through(stage, entered, recording))
        return recording

    def backward(self, stage: int, routing: Routing, seen: Callable[[Recording], None] | None) -> Recording:
        """One stage again, and back through it. The truth's values are recorded again: experts' gradients need them.

        `seen` takes the recording between the two passes; in the last stage the values are not known before.
        """
        recording = self._recording(routing, values=self.variant is None or seen is not None)
        with self._computing():
            entered = None if stage == 0 else self.kept.get(self._entering(stage)).requires_grad_()
            output = self._through(stage, entered, recording)
            if seen is not None:
                output = self._loss(output, recording) * self.scale
                seen(recording)
                arriving = None
            else:
                arriving = self.kept.get(self._arriving(stage + 1))
            torch.autograd.backward(output, arriving)
        if entered is not None and entered.grad is not None:
            self.kept.put(self._arriving(stage), entered.grad)
        return recording

    def _through(self, stage: int, entered: torch.Tensor | None, recording: Recording) -> torch.Tensor:
        """What leaves a stage: the main model's layer, the first behind the embedding, the last before the final norm."""
        hf, layers = self.side.hf, self.case.model.num_hidden_layers
        if entered is None:
            # Before the hook that moves what the layers get.
            hook = hf.model.embed_tokens.register_forward_hook(recording.output("embedding"), prepend=True)
            entered = hf.model.embed_tokens(self.batch.tokens)
            hook.remove()
        found = self._layer(stage, entered, recording) if stage < layers else entered
        return recording.keep("final_norm", hf.model.norm(found)) if stage == layers - 1 else found

    def _loss(self, hidden: torch.Tensor, recording: Recording) -> torch.Tensor:
        """From the output of the final norm; MTP layers add to it."""
        total = record_loss(self.side.hf, self.case, self.batch, hidden, recording)
        if self.side.mtp is None:
            return total
        return total + reference_mtp.record(self.side.hf, self.side.mtp, self.case, self.batch, hidden, recording)

    def _layer(self, layer: int, hidden: torch.Tensor, recording: Recording) -> torch.Tensor:
        module = self.side.hf.model.layers[layer]
        self.further = self.further or self._beside(hidden)
        hooks = layer_hooks(module, self.case.model, layer, self.batch, recording)
        try:
            with recording.attention({module.self_attn: f"layers.{layer}"}):
                output = module(hidden, **self.further)
        finally:
            for hook in hooks:
                hook.remove()
        found: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return found

    def _beside(self, hidden: torch.Tensor) -> dict[str, Any]:
        """What every layer is given beside the hidden states: transformers' own, up to its first layer."""
        found: dict[str, Any] = {}

        def reached(module: Any, arguments: Any, keywords: Mapping[str, Any]) -> None:
            found.update({name: value for name, value in keywords.items() if name != "hidden_states"})
            raise _Reached

        hook = self.side.hf.model.layers[0].register_forward_pre_hook(reached, with_kwargs=True)
        try:
            with torch.no_grad():
                self.side.hf.model(inputs_embeds=hidden.detach(), **beside_tokens(self.batch))
        except _Reached:
            pass
        finally:
            hook.remove()
        return found

    def _recording(self, routing: Routing, values: bool = True) -> Recording:
        """The truth's routers choose for themselves, the others' go on with its choice."""
        return Recording(routing if self.variant else None, in_place=True, values=values)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        varied = reference_model.varied(self.side.hf, self.variant or Variant())
        with computing_in(self.side.computed_in), varied:
            yield

    def _entering(self, stage: int) -> str:
        return f"{self.name}-{stage}"

    def _arriving(self, stage: int) -> str:
        return f"{self.name}-gradient-{stage}"
