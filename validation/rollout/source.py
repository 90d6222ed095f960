"""How the HuggingFace model of a folder is computed with: on which device, whole or a layer at a time."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from validation.case.case import ON_CPU, TRANSPORTS
from validation.case.errors import EnvironmentMissing, UsageError
from validation.case.folder import model_from_folder
from validation.case.memory import GIB
from validation.case.model import Model
from validation.case.parameters import parameters
from validation.case.stages import of_stage
from validation.machine import available_memory
from validation.rollout.streamed import Streamed
from validation.rollout.truth import CPU, HuggingFace, without_mtp

_BYTES = 8
"""Of a weight in fp64."""


@dataclass(frozen=True)
class Source:
    """A folder; `stream` says that one layer of it is held at a time."""

    folder: Path
    device: torch.device = CPU
    stream: bool = False

    def open(self, precision: str, weights: str) -> HuggingFace:
        """The model in `precision`, its weights rounded to that of `weights` first. Raises UsageError for a bad folder."""
        made = Streamed.opened if self.stream else HuggingFace.open
        return made(self.folder, precision, weights, self.device)

    def of(self, folder: Path) -> Source:
        """Another folder, computed in the same way."""
        return Source(folder, self.device, self.stream)


def source_of(options: argparse.Namespace, folder: Path, earlier: Path | None) -> Source:
    """What the options ask for. Raises EnvironmentMissing for what this machine lacks, UsageError for weights of two models."""
    found = Source(folder, _device(options.transport or "gloo"), options.stream)
    model = without_mtp(model_from_folder(folder))
    if earlier is not None and without_mtp(model_from_folder(earlier)) != model:
        raise UsageError(
            f"--earlier-hf-model-path {earlier} is another model than {folder}; give earlier weights of the same one"
        )
    if found.device == CPU:
        _check_memory(model, found)
    return found


def _device(transport: str) -> torch.device:
    """Where HuggingFace computes."""
    if transport not in TRANSPORTS:
        raise UsageError(f"--transport {transport} is unknown; give one of {', '.join(TRANSPORTS)}")
    if transport in ON_CPU:
        return CPU
    if not torch.cuda.is_available():
        raise EnvironmentMissing(f"--transport {transport} computes on GPUs, and none is usable here; leave it out for the CPU")
    return torch.device("cuda", 0)


def _check_memory(model: Model, source: Source) -> None:
    """Raises EnvironmentMissing if what is held of the model at a time does not fit into memory in fp64."""
    stages = [of_stage(model, stage) for stage in model.blocks] if source.stream else [tuple(parameters(model))]
    needed, there = _BYTES * max(_elements(model, names) for names in stages), available_memory()
    if there is not None and needed > there:
        held = f"a layer of {source.folder}" if source.stream else f"the model of {source.folder}"
        advice = "take a machine with more" if source.stream else "add --stream, which holds one layer at a time"
        raise EnvironmentMissing(
            f"{held} takes {needed / GIB:.1f} GiB in fp64, and {there / GIB:.1f} GiB of memory are available; {advice}"
        )


def _elements(model: Model, names: Iterable[str]) -> int:
    known = parameters(model)
    return sum(math.prod(known[name].shape) for name in names)
