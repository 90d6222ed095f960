"""Recording in a rank: every piece is compared, where it lives, with its slice of the stored reference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file

from validation.case.steps import UNREDUCED
from validation.compare import fused, native, rounded
from validation.compare.difference import Difference, measured
from validation.compare.extent import Extent, extent
from validation.compare.mapped import opened
from validation.compare.measurement import PieceReport
from validation.compare.pending import Pending
from validation.compare.piece import Box, box_shape, slices
from validation.compare.precision import as_stored
from validation.compare.sliced import CPU
from validation.compare.staging import to_device


class Served(Protocol):
    """What tensors of the reference are read from: a file, or memory that stands in its place."""

    def read(self, name: str, index: Sequence[slice] | None = None) -> torch.Tensor:
        """The tensor, or the part that `index` takes from it."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""

    def close(self) -> None:
        """Let go of it."""


class Recorder:
    """What one rank has to say about every tensor it holds a piece of: differences, never tensors.

    `notes` are for what a plugin wants to hand back; nothing of ours writes any.
    `facts` are the reference's: where it is a truth in float64, the dtypes that tensors must have by name, their floors, and
    the names of those in float32 that hold more than half precision can. It is read onto `device`, where the tensors are.
    """

    def __init__(
        self,
        rank: int,
        keep: Path | None = None,
        facts: Mapping[str, Any] | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.rank, self._keep, self._device = rank, keep, device
        facts = facts or {}
        self._dtypes: Mapping[str, str] | None = facts.get("dtypes")
        self._floor: Mapping[str, float] = facts.get("floor") or {}
        self._unrounded: Collection[str] = facts.get("unrounded") or ()
        self._kept: dict[Path, dict[str, torch.Tensor]] = defaultdict(dict)
        self.pieces: dict[str, list[PieceReport]] = defaultdict(list)
        self.problems: dict[str, str] = {}
        self.notes: dict[str, Any] = {}
        self._by_formula: dict[str, dict[int, bool]] = defaultdict(dict)
        self._files: dict[Path, Served] = {}
        self._pending = Pending()

    def file(self, path: Path) -> Served:
        """A file of the reference, kept open; its tensors come on this rank's device."""
        if path not in self._files:
            self._files[path] = opened(path, self._device)
        return self._files[path]

    def serve(self, path: Path, file: Served) -> None:
        """Have this read wherever a file of the reference's is named, which need not be there."""
        self._files[path] = file

    def compare(
        self,
        name: str,
        tensor: torch.Tensor,
        box: Box,
        reference: Path,
        key: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Measure `tensor`, which is the part `box` of what `reference` holds as `key` (or `name`).

        `dtype` is what it was computed in, where it has been converted since.
        """
        with as_stored():
            file = self.file(reference)
            expected = file.read(key or name, slices(box))
            if self._keep is not None:
                whole = self._kept[reference].setdefault(key or name, torch.empty(file.shape(key or name), dtype=tensor.dtype))
                whole[slices(box)] = tensor.detach().cpu()
        self.compare_with(name, tensor, box, expected, dtype)

    def compare_with(
        self, name: str, tensor: torch.Tensor, box: Box, expected: torch.Tensor, dtype: torch.dtype | None = None
    ) -> None:
        """The same where the reference's part is at hand."""
        with as_stored():
            found = str(dtype or tensor.dtype).removeprefix("torch.")
            declared = str(expected.dtype).removeprefix("torch.") if self._dtypes is None else self._dtypes.get(name, found)
            if found != declared:
                self.problem(name, f"dtype {found} where {declared} was declared")
                return
            if name in self._unrounded and expected.shape == tensor.shape and (half := rounded.half_of(tensor, expected)):
                self.problem(name, f"rounded to {half}: the dtype is float32, and all numbers in it are those of {half}")
                return
            self.measure(name, tensor, box, expected)

    def measure(self, name: str, tensor: torch.Tensor, box: Box, expected: torch.Tensor, exact: bool = False) -> None:
        """Measure `tensor`, which is the part `box` of the whole, against `expected`; `exact` allows for no rounding."""
        if tensor.shape != box_shape(box):
            self.problem(name, f"shape {tuple(tensor.shape)} where {box_shape(box)} was declared, for part {list(box)}")
            return
        # Before a reduction and after it is the same gradient.
        floor = self._floor.get(name.replace(UNREDUCED, "gradients/"), 0.0)

        def take(found: Difference, digest: str, where: Extent | None) -> None:
            self.pieces[name].append(PieceReport(self.rank, box, found, digest, where))

        with as_stored():
            tensor, expected = tensor.detach(), to_device(expected.detach(), tensor.device)
            if self._pending.takes(tensor, expected):
                self._pending.ask(tensor, expected.contiguous(), box, take, exact, floor)
                return
            tensor = tensor.contiguous()
            self._pending.settle()  # pieces of one tensor stay in their order
            found = measured(tensor, expected.contiguous(), box)
            take(found, _digest(tensor), extent(tensor, expected, box, found, exact, floor))

    def problem(self, name: str, sentence: str) -> None:
        """Say why a tensor could not be compared; the first reason is kept."""
        self.problems.setdefault(name, sentence)

    def by_formula(self, name: str, part: int, *, judged: bool) -> None:
        """Say whether a part of a tensor, of those that this rank has, was judged by a formula, to the roundings of its dtype.

        What is said of a part last is what holds.
        """
        self._by_formula[name][part] = judged

    def close(self) -> None:
        """Let go of the reference's files; write what is to be kept."""
        self._settle()
        if self._keep is not None:
            for reference, tensors in self._kept.items():
                save_file(tensors, str(self._keep / reference.name))
        for file in self._files.values():
            file.close()

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        self._settle()
        pieces = {name: [piece.as_list() for piece in found] for name, found in self.pieces.items()}
        by_formula = {name: all(parts.values()) for name, parts in self._by_formula.items()}
        return {"pieces": pieces, "problems": self.problems, "notes": self.notes, "by_formula": by_formula}

    def _settle(self) -> None:
        with torch.no_grad(), as_stored():
            self._pending.settle()


def _digest(tensor: torch.Tensor) -> str:
    """A short digest of a contiguous tensor's bytes, equal on two ranks if and only if their tensors are equal to the bit."""
    if tensor.is_cuda:
        return fused.digest(tensor) if fused.digests(tensor) else native.digest_or_sha(tensor.cpu())
    return native.digest_or_sha(tensor)
