"""What comes of the runs of a reference that is computed layer by layer: the truth into files, the others into the floor."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from validation.case.case import Case
from validation.case.parameters import EXPERTS, parameters
from validation.case.probes import observed
from validation.compare.precision import DTYPES, as_stored
from validation.reference.appended import Appended
from validation.reference.experts import GRADIENT, PROBES, ExpertGradients, expert_reader
from validation.reference.floor import VARIANTS, Floor, Variant, difference_from, magnitude
from validation.reference.record import Recording
from validation.reference.routing import Routing, expert_bias, routing
from validation.reference.sources import Precision, Weights, truth_precision

GRADIENTS = "gradients/"


class Ledger:
    """Takes in each run's tensors of one layer after the other; the truth (no variant) comes first."""

    def __init__(self, case: Case, folder: Path, weights: Weights) -> None:
        self.routing: Routing = {}
        self._case, self._weights = case, weights
        self._floor = Floor({})
        self._experts: ExpertGradients | None = None
        self._stack = ExitStack()
        sizes = {
            "probes": len(observed(case)),
            "probe_gradients": len(observed(case)),
            "gradients": len(parameters(case.model)),
            "routing": 2 * len(case.model.moe_layers),
        }
        names = [name for name in sizes if name != "routing" or case.precision != "fp64"]
        self._files = {name: self._stack.enter_context(Appended(folder / f"{name}.safetensors", sizes[name])) for name in names}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    def take(
        self,
        variant: Variant | None,
        recording: Recording,
        layer: int | None = None,
        gradients: Mapping[str, torch.Tensor] | None = None,
        scale: float = 1.0,
    ) -> None:
        """The values of a forward pass; behind the last layer the gradients are there, too."""
        if variant is not None:
            self._floor.add(recording.forward.items())
        else:
            self._floor.truth = recording.forward
            self._append("probes", recording.forward)
            if layer in self._case.model.moe_layers and self._case.precision != "fp64":
                self._choose(int(layer or 0), recording.forward)
        if gradients is not None:
            self.take_gradients(variant, None, recording, gradients, scale)

    def take_gradients(
        self,
        variant: Variant | None,
        layer: int | None,
        recording: Recording,
        gradients: Mapping[str, torch.Tensor],
        scale: float,
    ) -> None:
        """The gradients of probes and of parameters."""
        named = {f"probe_gradients/{name}": tensor for name, tensor in recording.gradients.items()}
        whole = {name: tensor for name, tensor in gradients.items() if EXPERTS not in name}
        named |= {f"{GRADIENTS}{name}": tensor for name, tensor in whole.items()}
        if variant is None:
            self._floor.truth = recording.forward | named
            self._append("probe_gradients", recording.gradients)
            self._append("gradients", whole)
            self._experts = self._of_experts(layer, recording) if layer in self._case.model.moe_layers else None
            return
        self._floor.add(named.items(), scale)
        for name, stacked in gradients.items():
            if EXPERTS in name and self._experts is not None:
                self._add_experts(name, stacked, self._experts, scale)

    def facts(self) -> dict[str, Any]:
        """For the reference's file."""
        truth = {"truth": truth_precision(self._case)}
        if self._case.precision == "fp64":
            return truth
        return {**truth, **self._floor.facts(self._case), "floor_runs": ", ".join(variant.name for variant in VARIANTS)}

    def _append(self, file: str, tensors: Mapping[str, torch.Tensor]) -> None:
        with as_stored():
            for name, tensor in tensors.items():
                self._files[file].add(name, tensor)

    def _choose(self, layer: int, forward: dict[str, torch.Tensor]) -> None:
        """The routing that all other runs go on with, from the truth's."""
        with as_stored():
            bias = expert_bias(self._weights, layer, self._case.model).to(forward[f"layers.{layer}.moe.router.scores"].device)
            chosen = routing(forward, {layer: bias}, self._case.model)
        self._append("routing", chosen)
        self.routing |= chosen

    def _of_experts(self, layer: int | None, recording: Recording) -> ExpertGradients:
        given, weights = (recording.forward[f"layers.{layer}.{kind}"].flatten(0, 1) for kind in PROBES)
        arriving = recording.gradients[f"layers.{layer}.{GRADIENT}"].flatten(0, 1)
        precision = Precision(DTYPES[truth_precision(self._case)], DTYPES[self._case.precision])
        return ExpertGradients(given, weights, arriving, expert_reader(self._weights, precision, given.device))

    def _add_experts(self, name: str, stacked: torch.Tensor, truth: ExpertGradients, scale: float) -> None:
        """One expert after the other: the truth's of all of them at once would be as large as the layer."""
        total, largest = None, 0.0
        for expert, gradient in enumerate(stacked):
            of_truth = truth.of(name, expert)
            found, largest = difference_from(of_truth, gradient, scale), max(largest, magnitude(of_truth))
            total = found if total is None else total.merged(found)
        if total is not None:
            self._floor.add_difference(f"{GRADIENTS}{name}", stacked.dtype, total, largest)
