"""What a checkpoint of any format answers: which model it holds, and any box of any of its parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from validation.case.errors import UsageError
from validation.case.parameters import Parameter
from validation.case.plural import many
from validation.compare.piece import Box
from validation.convert.describe import Described
from validation.convert.stored import Files, Run, Stored, runs

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
"""What weights can be stored in, by the words of the options."""

OF_TRAINING = "of optimizer and random state"
"""Why tensors of a Megatron checkpoint are not used: training has saved them beside the model."""


@dataclass(frozen=True)
class Inventory:
    """The tensors of the input, counted: `used` by what for, `aside` by the reason why they are not."""

    used: Mapping[str, int] = field(default_factory=dict)
    aside: Mapping[str, int] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """`used 163 of 163 tensors (155 weights, 8 block scales)`."""
        total = sum(self.used.values()) + sum(self.aside.values())
        said = [f"{count} {what}" for what, count in self.used.items() if count]
        said += [f"left aside: {count} {reason}" for reason, count in self.aside.items() if count]
        return f"used {sum(self.used.values())} of {many(total, 'tensor')} ({', '.join(said)})"


class Source(ABC):
    """An opened checkpoint. `read` may be asked in any process that was forked after opening."""

    format: str

    def __init__(self, path: Path, described: Described, opened: Files | None = None) -> None:
        self.path, self.described, self._opened = path, described, opened or Files()
        self.parameters: Mapping[str, Parameter] = described.parameters

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    @abstractmethod
    def stored(self, name: str, box: Box) -> tuple[Sequence[Stored], Box]:
        """Where that part of a parameter lies, as far as it lies in files as it is, and the part in the indices used there."""

    def runs(self, name: str, box: Box, dtype: torch.dtype) -> list[Run]:
        """The bytes of a part of a parameter as they lie in files, in order; none where it has to be put together or cast."""
        pieces, part = self.stored(name, box)
        return runs(pieces, part, dtype)

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which `read` returns the parameter."""

    @abstractmethod
    def read(self, name: str, box: Box) -> torch.Tensor:
        """A copy of a part of a parameter, with as many dimensions as the parameter."""

    @abstractmethod
    def inventory(self) -> Inventory:
        """Every tensor of the input, used or not."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of how the input was read, a sentence each."""
        return ()

    @property
    def copies(self) -> bool:
        """Whether the MTP layers come with their copies of embedding and head, as DeepSeek-V3 is published."""
        return bool(self.described.model.mtp_layers)

    @property
    def quantised(self) -> bool:
        """Whether weights are stored with scales."""
        return False

    def files(self) -> list[Path]:
        """The files of the checkpoint that hold its tensors."""
        return []

    def close(self) -> None:
        """Let go of the files; the next read opens them again."""
        self._opened.close()


def padding(name: str, rows: int, taken: int) -> str:
    """The note on a tensor over the vocabulary that training has padded."""
    return (
        f"{name} has {many(rows, 'row')} and config.json {many(taken, 'token')}: "
        f"{many(rows - taken, 'row of padding is', 'rows of padding are')} left out"
    )


def refuse_unknown(path: Path, unknown: list[str]) -> None:
    """Raises UsageError for tensors that the model has no place for."""
    if unknown:
        raise UsageError(
            f"{path}: {unknown[0]} has no place in the model that config.json describes "
            f"({many(len(unknown), 'such tensor')}); the "
            "files and config.json must be of the same model"
        )
