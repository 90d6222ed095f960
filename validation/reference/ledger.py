"""What comes of the runs of a reference that is computed layer by layer: the truth is kept, the others go into the floor."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch

from validation.case.case import Case
from validation.case.parameters import parameters
from validation.case.probes import observed
from validation.compare.difference import Difference
from validation.compare.precision import DTYPES, as_stored
from validation.reference.appended import Appended
from validation.reference.experts import GRADIENT, PROBES, ExpertGradients
from validation.reference.floor import VARIANTS, Floor, Variant, difference_later
from validation.reference.record import Recording
from validation.reference.routing import Routing, expert_bias, routing
from validation.reference.sources import Weights, truth_precision

GRADIENTS = "gradients/"
_TOGETHER, _TOGETHER_ON_DEVICE = 1 << 16, 1 << 27
"""Elements of experts' gradients that are measured as one."""
PROBE_VALUES, PROBE_GRADIENTS, PARAMETER_GRADIENTS, ROUTING = "probes", "probe_gradients", "gradients", "routing"
"""What is kept of a truth, by the names of the files of a stored one."""


class Keeping(Protocol):
    """Where the truth's tensors go."""

    def add(self, kind: str, name: str, tensor: torch.Tensor) -> None:
        """Keep one of a kind."""


class Files:
    """They are written into the files of a reference, as they come."""

    def __init__(self, case: Case, folder: Path) -> None:
        sizes = {
            PROBE_VALUES: len(observed(case)),
            PROBE_GRADIENTS: len(observed(case)),
            PARAMETER_GRADIENTS: len(parameters(case.model)),
            ROUTING: 2 * len(case.model.expert_blocks),
        }
        self._stack = ExitStack()
        names = [name for name in sizes if name != ROUTING or case.precision != "fp64"]
        self._files = {name: self._stack.enter_context(Appended(folder / f"{name}.safetensors", sizes[name])) for name in names}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, kind: str, name: str, tensor: torch.Tensor) -> None:
        """One more tensor of a file."""
        with as_stored():
            self._files[kind].add(name, tensor)


class Ledger:
    """Takes in each run's tensors of one layer after the other; the truth (no variant) comes first.

    `routing` are the choices that are known already.
    """

    def __init__(self, case: Case, weights: Weights, keeping: Keeping, routing: Routing | None = None) -> None:
        self.routing: Routing = dict(routing or {})
        self.floor = Floor({})
        self.experts: ExpertGradients | None = None
        """The truth's of the layer that was last gone back through, if it has experts."""
        self._case, self._weights, self._keeping = case, weights, keeping
        self._waiting: dict[str, dict[int, torch.Tensor]] = defaultdict(dict)
        self._differences: dict[str, list[Callable[[], Difference]]] = defaultdict(list)
        self._largest: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._seen: set[tuple[str, int]] = set()
        """Experts whose largest gradient of the truth is known."""

    def take(self, variant: Variant | None, recording: Recording, layer: int) -> None:
        """The values of a layer's forward pass."""
        if variant is not None:
            self.floor.add(recording.forward.items())
            return
        self.floor.truth = recording.forward
        self._keep(PROBE_VALUES, recording.forward)
        if layer in self._case.model.expert_blocks and self._case.precision != "fp64":
            self._choose(layer, recording.forward)

    def begin_gradients(self, layer: int, recording: Recording, read: Callable[[str, int], torch.Tensor]) -> None:
        """Of the truth, before any other run goes back through the layer: what its experts' gradients are made of.

        `read` makes an expert's matrix in the truth's dtype. It is not called later.
        """
        self.experts = None
        self._largest.clear()
        self._seen.clear()
        if layer in self._case.model.expert_blocks:
            given, weights = (recording.forward[f"layers.{layer}.{kind}"].flatten(0, 1) for kind in PROBES)
            arriving = recording.gradients[f"layers.{layer}.{GRADIENT}"].flatten(0, 1)
            self.experts = ExpertGradients(given, weights, arriving, read)
            self.experts.prepare(f"model.layers.{layer}.")

    def take_gradients(
        self, variant: Variant | None, recording: Recording, gradients: Mapping[str, torch.Tensor], scale: float
    ) -> None:
        """The gradients of probes, and of parameters without the experts'."""
        named = {f"probe_gradients/{name}": tensor for name, tensor in recording.gradients.items()}
        named |= {f"{GRADIENTS}{name}": tensor for name, tensor in gradients.items()}
        if variant is None:
            self.floor.truth = recording.forward | named
            self._keep(PROBE_GRADIENTS, recording.gradients)
            self._keep(PARAMETER_GRADIENTS, gradients)
        else:
            self.floor.add(named.items(), scale)
            self._end_experts(DTYPES[self._case.precision], scale)

    def take_expert(self, name: str, expert: int, gradient: torch.Tensor, scale: float) -> None:
        """The gradient of one expert's matrix, as soon as a run has it: those of all would be as large as the layer.

        Some of them are measured together, and nobody waits for the figures: a layer of DeepSeek-V3 has 768, five times.
        """
        waiting = self._waiting[name]
        waiting[expert] = gradient
        most = _TOGETHER_ON_DEVICE if gradient.is_cuda else _TOGETHER
        if len(waiting) * gradient.numel() >= most:
            self._measure(name, scale)

    def _measure(self, name: str, scale: float) -> None:
        """The gradients of a parameter that are waiting."""
        if self.experts is None:
            raise RuntimeError(f"a gradient of {name} arrives before the truth's")
        waiting = self._waiting.pop(name)
        experts = sorted(waiting)
        with as_stored():
            gradient = torch.stack([waiting[expert] for expert in experts])
            waiting.clear()
            of_truth = self.experts.together(name, experts)
            if not self._seen.issuperset((name, expert) for expert in experts):
                self._seen.update((name, expert) for expert in experts)
                self._largest[name].append(of_truth.abs().amax())
            self._differences[name].append(difference_later(of_truth, gradient, scale))

    def end(self) -> None:
        """Let go of the truth's tensors: no more runs are measured from them. Those that are kept stay with who keeps them."""
        self.floor.truth = {}

    def facts(self, floor: Floor | None = None) -> dict[str, Any]:
        """For the reference's file."""
        truth = {"truth": truth_precision(self._case)}
        if self._case.precision == "fp64":
            return truth
        runs = ", ".join(variant.name for variant in VARIANTS)
        return {**truth, **(floor or self.floor).facts(self._case), "floor_runs": runs}

    def _keep(self, kind: str, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            self._keeping.add(kind, name, tensor)

    def _choose(self, layer: int, forward: dict[str, torch.Tensor]) -> None:
        """The routing that all other runs go on with, from the truth's."""
        with as_stored():
            bias = expert_bias(self._weights, layer, self._case.model).to(forward[f"layers.{layer}.moe.router.scores"].device)
            chosen = routing(forward, {layer: bias}, self._case.model)
        self._keep(ROUTING, chosen)
        self.routing |= chosen

    def _end_experts(self, dtype: torch.dtype, scale: float) -> None:
        """A run has come through the layer: its experts' differences added up. One without tokens differs by nothing."""
        for name in list(self._waiting):
            self._measure(name, scale)
        for name, found in self._differences.items():
            total = functools.reduce(Difference.merged, (later() for later in found))
            self.floor.add_difference(f"{GRADIENTS}{name}", dtype, total, max(map(float, self._largest[name])))
        self._differences.clear()
