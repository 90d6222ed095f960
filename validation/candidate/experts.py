"""What the reference has of experts' gradients, made in a rank from the stored probes, where they are not stored themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.case.parameters import Parameter
from validation.compare.piece import Box, slices
from validation.compare.precision import DTYPES, as_stored
from validation.reference.experts import GRADIENT, PROBES, ExpertGradients, expert_reader
from validation.reference.sources import Precision, Weights, truth_precision
from validation.reference.store import Reference


class ExpertsOf(Protocol):
    """What the reference has of experts' gradients."""

    def gradient(self, parameter: Parameter, box: Box) -> torch.Tensor:
        """The part `box` of a routed parameter's gradient: experts first."""


class Experts:
    """The experts' gradients of one layer after the other; what they are made from is read once for each."""

    def __init__(self, case: Case, stored: Reference, weights: Weights, recorder: Recorder, device: torch.device) -> None:
        self._case, self._stored, self._recorder, self._device = case, stored, recorder, device
        precision = Precision(DTYPES[truth_precision(case)], DTYPES[case.precision])
        self._read = expert_reader(weights, precision, device)
        self._layer = -1
        self._made: ExpertGradients | None = None

    def gradient(self, parameter: Parameter, box: Box) -> torch.Tensor:
        """The part `box` of a routed parameter's gradient: experts first."""
        made = self._of_layer(parameter.layer or 0)
        (first, last), *rest = box
        parts = [made.of(parameter.name, expert)[slices(tuple(rest))] for expert in range(first, last)]
        return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)

    def _of_layer(self, layer: int) -> ExpertGradients:
        if self._made is None or self._layer != layer:
            prefix = f"layers.{layer}."
            given, weights = (self._flat(self._stored.probes, prefix + kind) for kind in PROBES)
            arriving = self._flat(self._stored.probe_gradients, prefix + GRADIENT)
            self._layer, self._made = layer, ExpertGradients(given, weights, arriving, self._read)
        return self._made

    def _flat(self, path: Path, name: str) -> torch.Tensor:
        with as_stored():
            return self._recorder.file(path).read(name).to(self._device).flatten(0, 1)
