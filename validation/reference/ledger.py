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
        self._differences: dict[str, dict[int, Callable[[], Difference]]] = defaultdict(dict)
        self._largest: dict[tuple[str, int], torch.Tensor] = {}

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
            self._end_experts(DTYPES[self._case.precision])

    def take_expert(self, name: str, expert: int, gradient: torch.Tensor, scale: float) -> None:
        """The gradient of one expert's matrix, as soon as a run has it: those of all would be as large as the layer."""
        if self.experts is None:
            raise RuntimeError(f"a gradient of {name} arrives before the truth's")
        of_truth = self.experts.of(name, expert)
        if (name, expert) not in self._largest:
            with as_stored():
                self._largest[name, expert] = of_truth.abs().amax()
        # Nobody waits for these one by one: a layer has hundreds of them, and a GPU works ahead.
        self._differences[name][expert] = difference_later(of_truth, gradient, scale)

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

    def _end_experts(self, dtype: torch.dtype) -> None:
        """A run has come through the layer: its experts' differences in their order. One without tokens differs by nothing."""
        for name, found in self._differences.items():
            total = functools.reduce(Difference.merged, (found[expert]() for expert in sorted(found)))
            largest = max(float(self._largest[name, expert]) for expert in found)
            self.floor.add_difference(f"{GRADIENTS}{name}", dtype, total, largest)
        self._differences.clear()
