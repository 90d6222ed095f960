"""Weights that are made where they are used, from the seed, and stand in no file.

Every matrix (of experts each one's) has a generator of its own, so that any can be made alone, by any rank, in any order.
Made on a GPU they are other numbers than on the CPU, and the same on every GPU of a kind: reference and ranks of a case
compute on the same one.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from typing import Self

import torch

from validation.case.case import Case
from validation.case.parameters import EXPERTS, Parameter, parameters
from validation.compare.precision import as_stored
from validation.reference.weights import scaled


class SeededWeights:
    """What validation.reference.checkpoint.Checkpoint is of files, of a case's seed."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.model, self.parameters = case.model, parameters(case.model)
        self._seed, self._device = case.seed, device

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to let go of."""

    def keys(self) -> list[str]:
        """Every key that a file would have."""
        return sorted(itertools.chain.from_iterable(map(Parameter.keys, self.parameters.values())))

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which a parameter is made."""
        return torch.float32

    def read(self, name: str, slices: tuple[slice, ...] | None = None) -> torch.Tensor:
        """A slice of a parameter, on the device; the whole for None."""
        parameter = self.parameters[name]
        index = slices or tuple(slice(0, size) for size in parameter.shape)
        with as_stored():
            if EXPERTS not in name:
                return self._made(parameter, parameter.shape, "")[index]
            out = torch.empty([part.stop - part.start for part in index], dtype=torch.float32, device=self._device)
            for place, expert in enumerate(range(index[0].start, index[0].stop)):
                out[place] = self._made(parameter, parameter.shape[1:], f":{expert}")[index[1:]]
            return out

    def unused(self) -> list[str]:
        """None is left over."""
        return []

    @property
    def set_aside(self) -> Mapping[str, int]:
        """None is."""
        return {}

    @property
    def digest(self) -> str:
        """Of what the values follow from, in place of the values: seed, names, shapes, and the device whose generator it is."""
        said = "".join(f"{name} {parameter.shape}\n" for name, parameter in self.parameters.items())
        kind = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
        return hashlib.sha256(f"{self._seed} {kind} {torch.__version__}\n{said}".encode()).hexdigest()

    def _made(self, parameter: Parameter, shape: tuple[int, ...], which: str) -> torch.Tensor:
        seed = hashlib.sha256(f"{self._seed}:{parameter.name}{which}".encode()).digest()
        generator = torch.Generator(self._device).manual_seed(int.from_bytes(seed[:8], "big", signed=True))
        return scaled(parameter, torch.randn(shape, generator=generator, dtype=torch.float32, device=self._device))
