"""What ranks do before their turn; that it is of use is shown on a GPU (tests/gpu)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from validation.candidate import host_memory, rehearsal
from validation.case import memory
from validation.case.case import Case
from validation.compare.sliced import CPU
from validation.run.options import parsed

ON_GPU = ("--preset", "mini", "--precision", "bf16", "--share-gpu", "4")


def case(words: Sequence[str]) -> Case:
    return parsed(list(words)).cases[0]


@pytest.mark.parametrize(
    ("words", "compiles"),
    [
        ((*ON_GPU, "--implementation", "te", "--layouts", "cp2"), True),
        ((*ON_GPU, "--implementation", "te-unfused", "--layouts", "cp2dp2"), True),
        ((*ON_GPU, "--implementation", "te", "--layouts", "dp2"), False),
        ((*ON_GPU, "--layouts", "cp2"), False),
    ],
)
def test_the_compiler_is_rehearsed_where_a_case_compiles(
    words: Sequence[str], compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails there is left to the case."""
    rehearsed: list[torch.device] = []

    def failing(device: torch.device) -> torch.Tensor:
        rehearsed.append(device)
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(rehearsal, "compiled", failing)
    rehearsal.compile_once(case(words), CPU)
    assert rehearsed == [CPU] * compiles


@pytest.mark.parametrize(("transport", "pins"), [(("--share-gpu", "4"), True), (("--transport", "nccl"), False), ((), False)])
def test_what_gradients_pass_through_is_pinned(transport: Sequence[str], pins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as there is of them. A host that has no more of it is left to the case."""
    asked: list[int] = []

    def full(size: int) -> None:
        asked.append(size)
        raise torch.AcceleratorError("out of memory")

    monkeypatch.setattr(host_memory, "reserve", full)
    of = case((*transport, "--layouts", "dp2"))
    rehearsal.pin(of)
    assert asked == [memory.reduced(of)] * pins
    assert memory.reduced(of) > 0


@pytest.mark.parametrize(("parts", "more"), [(0, 0), (0, 5), (2, 0), (2, 5)])
def test_host_memory_is_reserved_in_the_parts_that_a_tensor_is_reduced_in(
    parts: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once. What would not be pinned is left out."""
    held: list[int] = []

    def taken(shape: tuple[int, ...], dtype: torch.dtype, like: torch.Tensor, pinned: bool) -> torch.Tensor:
        assert (dtype, pinned) == (torch.uint8, True)
        held.append(shape[0])
        return torch.empty(0)

    monkeypatch.setattr(host_memory, "taken", taken)
    host_memory.reserve(parts * host_memory.PART + more)
    assert held == [host_memory.PART] * parts + [more] * bool(more)
    host_memory.reserve(host_memory._PINNED_IN_PARTS + 1)
    assert len(held) == parts + bool(more)
