"""fp64 means all of it, within the block and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from validation.compare import exchanged
from validation.compare import precision as precision_
from validation.compare.precision import Mode, Unfilled, as_stored, computing_in, make_deterministic
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
    "_VF.zeros(2, dtype=torch.float32)": lambda x: torch._VF.zeros(2, dtype=torch.float32),
    "asarray([1.0], dtype=torch.float32)": lambda x: torch.asarray([1.0], dtype=torch.float32),
    "ops.aten.zeros([2], dtype=torch.float32)": lambda x: torch.ops.aten.zeros([2], dtype=torch.float32),
    "ops.aten.zeros.default": lambda x: torch.ops.aten.zeros.default([2], dtype=torch.float32),
    "linalg.vector_norm(x, dtype=torch.float32)": lambda x: torch.linalg.vector_norm(x, dtype=torch.float32),
    "special.softmax(x, 0, dtype=torch.float32)": lambda x: torch.special.softmax(x, 0, dtype=torch.float32),
    "nn.functional.softmax": lambda x: functional.softmax(x, 0, dtype=torch.float32),
    "norm(x, dtype=torch.float32)": lambda x: torch.norm(x, dtype=torch.float32),
    ".new_tensor([1.0], dtype=torch.float32)": lambda x: x.new_tensor([1.0], dtype=torch.float32),
    "a module's .to(torch.float32)": lambda x: torch.nn.Linear(1, 1, dtype=torch.bfloat16).to(torch.float32).weight,
    "a module's .float()": lambda x: torch.nn.Linear(1, 1, dtype=torch.bfloat16).float().weight,
    "a parameter's .float()": lambda x: torch.nn.Parameter(x.bfloat16()).float(),
}
WAYS = {"mode": False, "exchange": True}
ways = pytest.mark.parametrize("exchange", WAYS.values(), ids=WAYS)


@ways
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_every_request_for_float32_is_one_for_float64(request_: Callable[[torch.Tensor], torch.Tensor], exchange: bool) -> None:
    """However a model spells it, under fp64 it gets fp64; under fp32, what it asked for."""
    with computing_in("fp64", exchange=exchange) as dtype:
        assert dtype is torch.float64
        assert request_(torch.ones(2)).dtype is torch.float64
    with computing_in("fp32", exchange=exchange):
        assert request_(torch.ones(2)).dtype is torch.float32


@ways
@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize("mode", [Mode, type("Own", (Mode,), {})])
def test_nothing_leaks(precision: str, mode: type[Mode], exchange: bool) -> None:
    """After the block, even one that raised, dtype, backward and requests are as before, also through what was kept in it."""
    before = {(id(space), name): getattr(space, name) for space, name, _ in exchanged.torchs()}
    kept = []

    def within() -> None:
        kept.append(torch.zeros)
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), computing_in(precision, mode, exchange):
        within()
    assert kept[0](1, dtype=torch.float32).dtype is torch.float32
    assert all(getattr(space, name) == before[id(space), name] for space, name, _ in exchanged.torchs())
    assert "zeros" not in vars(torch._VF)
    assert torch.get_default_dtype() is torch.float32
    assert torch.autograd.backward.__module__ == "torch.autograd"
    assert torch.ones(1).double().float().dtype is torch.float32


def test_other_dtypes_are_left_alone() -> None:
    """bfloat16 and integers are what was asked for."""
    with computing_in("fp64"):
        assert torch.ones(1).to(torch.bfloat16).dtype is torch.bfloat16
        assert torch.zeros(1, dtype=torch.int32).dtype is torch.int32


@ways
def test_a_file_is_read_as_it_is_stored(tmp_path: Path, exchange: bool) -> None:
    """The one way out: a checkpoint's float32 is float32 even where everything else is promoted."""
    stored = torch.tensor([0.1, 0.2])
    save_file({"w": stored}, tmp_path / "file")
    with computing_in("fp64", exchange=exchange):
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


@ways
def test_a_backward_written_in_python_is_promoted_too(exchange: bool) -> None:
    """Megatron-core's schedules call torch.autograd.backward, which on its own would suspend the mode."""
    with computing_in("fp64", exchange=exchange):
        leaf = torch.ones(3, requires_grad=True)
        torch.autograd.backward(Scaled.apply(leaf).sum())
    assert Scaled.seen is torch.float64
    assert leaf.grad is not None
    assert leaf.grad[0].item() == 1 / 3


@ways
def test_what_is_recomputed_is_promoted_too(exchange: bool) -> None:
    """Activation checkpointing runs the forward pass again inside the backward pass."""
    seen = []

    def layer(given: torch.Tensor) -> torch.Tensor:
        wide = given.float()
        seen.append(wide.dtype)
        return wide * wide

    with computing_in("fp64", exchange=exchange):
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


@pytest.fixture
def switches() -> Iterator[None]:
    """They are as they were before, afterwards."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, torch.get_deterministic_debug_mode()
    cuda.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = True
    torch.set_deterministic_debug_mode(0)
    yield
    cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before[:3]
    torch.set_deterministic_debug_mode(before[3])


@pytest.mark.usefixtures("switches")
def test_runs_are_made_repeatable_and_the_report_says_how() -> None:
    """Whatever was set before; what is not deterministic warns, for some of it has no other way."""
    assert make_deterministic() == {"deterministic_algorithms": "True", "tf32": "False", "cudnn_benchmark": "False"}
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (False, False)
    assert torch.backends.cudnn.benchmark is False
    assert torch.get_deterministic_debug_mode() == 1


@pytest.mark.usefixtures("switches")
def test_unfilled_leaves_memory_alone_and_puts_the_switch_back() -> None:
    """Either way it was."""
    switch: Any = torch.utils.deterministic
    before = switch.fill_uninitialized_memory
    try:
        for was in (True, False):
            switch.fill_uninitialized_memory = was
            with Unfilled():
                assert switch.fill_uninitialized_memory is False
            assert switch.fill_uninitialized_memory is was
    finally:
        switch.fill_uninitialized_memory = before


def test_a_mode_of_one_s_own_is_entered_in_every_precision() -> None:
    """It rewrites calls for reasons of its own; in fp32 it promotes nothing, and the plain mode is not entered at all."""
    entered = []

    class Own(Mode):
        def __enter__(self) -> Any:
            entered.append(self.promote)
            return super().__enter__()

    for precision in ("fp64", "fp32", "bf16"):
        with computing_in(precision, Own) as dtype:
            assert dtype == {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}[precision]
            assert torch.ones(1).dtype is (torch.float64 if precision == "fp64" else torch.float32)
            assert torch.autograd.backward.__module__ == precision_.__name__
    assert entered == [True, False, False]
    plain = torch.autograd.backward
    with computing_in("bf16"):
        assert torch.autograd.backward is plain


@pytest.mark.filterwarnings("ignore:Using backward")
def test_backward_keeps_what_it_is_told_to_keep() -> None:
    """A graph that is kept is gone through twice, one that is not is not; a second derivative needs the first's graph."""
    with computing_in("fp64"):
        leaf = torch.tensor([2.0], requires_grad=True)
        cube = (leaf**3).sum()
        torch.autograd.backward(cube, retain_graph=True)
        torch.autograd.backward(cube, retain_graph=False)
        assert leaf.grad is not None
        assert leaf.grad.item() == 24.0
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.backward(cube)
        twice = torch.tensor([2.0], requires_grad=True)
        power = (twice**3).sum()
        torch.autograd.backward(power, create_graph=True)
        assert twice.grad is not None
        assert twice.grad.requires_grad
        torch.autograd.backward(power)  # kept with the graph of its gradient


def test_backward_reaches_the_inputs_that_are_named_alone() -> None:
    """The others get no gradient; a root that needs none is passed over."""
    with computing_in("fp64"):
        left, right = (torch.ones(2, requires_grad=True) for _ in range(2))
        constant = torch.ones(())
        torch.autograd.backward([(left * right).sum(), constant], inputs=[left])
    assert left.grad is not None
    assert left.grad.tolist() == [1.0, 1.0]
    assert right.grad is None


def test_backward_refuses_as_many_gradients_as_there_are_no_roots() -> None:
    with computing_in("fp64"):
        root = torch.ones(2, requires_grad=True).sum()
        with pytest.raises(ValueError, match="zip"):
            torch.autograd.backward((root,), (torch.ones(()), torch.ones(())))


@ways
def test_an_argument_is_promoted_wherever_it_stands_and_others_stay(exchange: bool) -> None:
    """The dtype alone is exchanged."""
    with computing_in("fp64", exchange=exchange):
        double: Any = torch.Tensor.float  # torch's annotations lack the memory format
        assert torch.ones(2).to("cpu", torch.float32, True).dtype is torch.float64
        assert torch.full((2,), 7, dtype=torch.float32).tolist() == [7.0, 7.0]
        assert double(torch.ones(2, dtype=torch.int32), memory_format=torch.preserve_format).dtype is torch.float64


def test_losses_are_computed_in_float32_at_least() -> None:
    """In the lower precisions both sides keep them, and routers, in float32."""
    dtypes = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert dtypes == precision_.DTYPES
    assert {name: torch.promote_types(dtype, torch.float32) for name, dtype in dtypes.items()} == precision_.LOSS_DTYPES


@ways
def test_a_mode_of_one_s_own_promotes_nothing_below_fp64(exchange: bool) -> None:
    """Whatever way float32 is asked for."""
    with computing_in("fp32", type("Own", (Mode,), {}), exchange):
        assert torch.ones(1, dtype=torch.bfloat16).float().dtype is torch.float32
        assert torch.ones(1).to(torch.float32).dtype is torch.float32
        assert torch.zeros(1, dtype=torch.float32).dtype is torch.float32


def test_what_is_asked_for_with_float_is_kept_where_it_is_promoted() -> None:
    """Such as how the elements lie in memory."""
    image: Any = torch.ones(1, 2, 3, 4, dtype=torch.bfloat16)
    with computing_in("fp64"):
        wide = image.float(memory_format=torch.channels_last)
    assert wide.dtype is torch.float64
    assert wide.is_contiguous(memory_format=torch.channels_last)


def test_a_gradient_has_no_graph_of_its_own_unless_somebody_asks() -> None:
    with computing_in("fp64"):
        leaf = torch.tensor([2.0], requires_grad=True)
        torch.autograd.backward((leaf**2).sum())
    assert leaf.grad is not None
    assert not leaf.grad.requires_grad


def test_one_gradient_for_one_root_need_not_be_in_a_list() -> None:
    """Though it has as many elements as there could be roots."""
    with computing_in("fp64"):
        leaf = torch.ones(2, requires_grad=True)
        torch.autograd.backward(3 * leaf, torch.tensor([1.0, 2.0]))
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [3.0, 6.0]


def test_an_input_that_nothing_reaches_gets_no_gradient() -> None:
    """As pipeline stages have them; torch's own backward does not mind, either."""
    with computing_in("fp64"):
        leaf, unused = (torch.ones(2, requires_grad=True) for _ in range(2))
        torch.autograd.backward(leaf.sum(), inputs=[leaf, unused])
    assert leaf.grad is not None
    assert unused.grad is None
