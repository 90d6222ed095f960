"""fp64 means all of it, within the block and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.checkpoint import checkpoint

from validation.compare.precision import Mode, as_stored, computing_in
from validation.compare.sliced import SlicedFile

REQUESTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    ".float()": lambda x: x.float(),
    ".to(torch.float32)": lambda x: x.to(torch.float32),
    ".to(dtype=torch.float32)": lambda x: x.to(dtype=torch.float32),
    ".to(device, torch.float32)": lambda x: x.to("cpu", torch.float32),
    ".type(torch.float32)": lambda x: x.type(torch.float32),
    "softmax(x, -1, torch.float32)": lambda x: torch.softmax(x, -1, torch.float32),
    "softmax(x, dim=-1, dtype=torch.float32)": lambda x: torch.softmax(x, dim=-1, dtype=torch.float32),
    "zeros(2, dtype=torch.float32)": lambda x: torch.zeros(2, dtype=torch.float32),
    "arange(0, 4, 2, dtype=torch.float32)": lambda x: torch.arange(0, 4, 2, dtype=torch.float32),
    "zeros(2)": lambda x: torch.zeros(2),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_every_request_for_float32_is_one_for_float64(request_: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """However a model spells it, under fp64 it gets fp64; under fp32, what it asked for."""
    with computing_in("fp64") as dtype:
        assert dtype is torch.float64
        assert request_(torch.ones(2)).dtype is torch.float64
    with computing_in("fp32"):
        assert request_(torch.ones(2)).dtype is torch.float32


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize("mode", [Mode, type("Own", (Mode,), {})])
def test_nothing_leaks(precision: str, mode: type[Mode]) -> None:
    """After the block, even one that raised, dtype, backward and requests are as before."""
    with pytest.raises(RuntimeError, match="inside"), computing_in(precision, mode):
        raise RuntimeError("inside")
    assert torch.get_default_dtype() is torch.float32
    assert torch.autograd.backward.__module__ == "torch.autograd"
    assert torch.ones(1).double().float().dtype is torch.float32


def test_other_dtypes_are_left_alone() -> None:
    """bfloat16 and integers are what was asked for."""
    with computing_in("fp64"):
        assert torch.ones(1).to(torch.bfloat16).dtype is torch.bfloat16
        assert torch.zeros(1, dtype=torch.int32).dtype is torch.int32


def test_a_file_is_read_as_it_is_stored(tmp_path: Path) -> None:
    """The one way out: a checkpoint's float32 is float32 even where everything else is promoted."""
    stored = torch.tensor([0.1, 0.2])
    save_file({"w": stored}, tmp_path / "file")
    with computing_in("fp64"):
        read = SlicedFile(tmp_path / "file").read("w")
        assert read.dtype is torch.float32
        with as_stored():
            assert torch.ones(1).to(torch.float32).dtype is torch.float32
        assert torch.ones(1).float().dtype is torch.float64
    assert torch.equal(read, stored)


class Scaled(torch.autograd.Function):
    """A third of its input, whose gradient asks for float32 as megatron-core's own functions do."""

    seen: torch.dtype

    @staticmethod
    def forward(ctx: Any, given: torch.Tensor) -> torch.Tensor:
        """A third."""
        return given / 3

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        """A third, by way of float32."""
        wide = gradients[0].to(torch.float32)
        Scaled.seen = wide.dtype
        return (wide / 3).to(gradients[0].dtype)


def test_a_backward_written_in_python_is_promoted_too() -> None:
    """Megatron-core's schedules call torch.autograd.backward, which on its own would suspend the mode."""
    with computing_in("fp64"):
        leaf = torch.ones(3, requires_grad=True)
        torch.autograd.backward(Scaled.apply(leaf).sum())
    assert Scaled.seen is torch.float64
    assert leaf.grad is not None
    assert leaf.grad[0].item() == 1 / 3


def test_what_is_recomputed_is_promoted_too() -> None:
    """Activation checkpointing runs the forward pass again inside the backward pass."""
    seen = []

    def layer(given: torch.Tensor) -> torch.Tensor:
        wide = given.float()
        seen.append(wide.dtype)
        return wide * wide

    with computing_in("fp64"):
        leaf = torch.ones(3, requires_grad=True)
        output = checkpoint(layer, leaf, use_reentrant=False)
        torch.autograd.backward((output,), (torch.ones(3),))
    assert seen == [torch.float64] * 2


@pytest.mark.parametrize("given", [None, "one", "both"])
def test_backward_is_still_backward(given: str | None) -> None:
    """Straight to the engine: the same gradients, with and without gradients given, for one root and for several."""
    leaf = torch.tensor([1.0, 2.0], requires_grad=True, dtype=torch.float64)
    with computing_in("fp64"):
        roots = (leaf**2).sum(), (leaf**3).sum()
        ones = torch.ones(())
        grads = {None: None, "one": (ones, None), "both": (ones, 2 * ones)}[given]
        torch.autograd.backward(roots, grads)
    assert leaf.grad is not None
    expected = 2 * leaf + (2 if given == "both" else 1) * 3 * leaf**2
    assert torch.allclose(leaf.grad, expected)
