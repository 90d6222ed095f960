"""Precisions: the dtype each one stands for, and `promoted`, which makes fp64 mean all of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd import Variable
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from validation.compare import exchanged

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What parameters and activations are held in."""
LOSS_DTYPES = {precision: torch.float64 if precision == "fp64" else torch.float32 for precision in DTYPES}
"""What both sides compute losses and routers in."""

_FLOAT_METHOD, _SINGLE = torch.Tensor.float, torch.float32


def _double(tensor: torch.Tensor, **keywords: Any) -> torch.Tensor:
    return tensor.double(**keywords)


class Mode(TorchFunctionMode):
    """Passes every call on, with each request for float32 made one for float64 where `promote` says so.

    Both models keep islands of float32 (norms, router, rotary tables, cross entropy) whatever their parameters' dtype is.
    Left alone they round at 1e-7 and hide small bugs; promoted, rounding is 5e-15.
    """

    def __init__(self, promote: bool) -> None:
        super().__init__()
        self.promote = promote
        self.replaced: dict[Any, Callable[..., Any]] = {_FLOAT_METHOD: _double} if promote else {}

    def keywords(self, given: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments that a call gets in place of `given`."""
        return {**given, "dtype": torch.float64} if self.promote and given.get("dtype") is torch.float32 else given

    # It runs for every torch call of both models, twenty thousand times a rank: written for few steps, not for looks.
    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        replacement = self.replaced.get(func)
        if replacement is not None:
            return replacement(*args, **(kwargs or {}))
        if self.promote:
            for argument in args:
                if argument is _SINGLE:
                    args = tuple(torch.float64 if argument is _SINGLE else argument for argument in args)
                    break
        return func(*args, **self.keywords(kwargs)) if kwargs else func(*args)

    def instead(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What stands for one of torch's functions, so that its calls pass through here and no other calls do."""
        always = function in self.replaced

        @functools.wraps(function)
        def passed(*args: Any, **kwargs: Any) -> Any:
            if not (kwargs or always):
                for argument in args:
                    if argument is _SINGLE:
                        break
                else:
                    return function(*args)
            if _as_stored() or _exchanging is not self:
                return function(*args, **kwargs)
            return self.__torch_function__(function, (), args, kwargs)

        return passed


_exchanging: Mode | None = None
"""The mode for whose calls torch's functions are exchanged now."""
_as_stored: Callable[[], bool] = torch._C._is_torch_function_all_disabled


def _backward(
    tensors: Any, grad_tensors: Any = None, retain_graph: Any = None, create_graph: bool = False, inputs: Any = None
) -> None:
    """`torch.autograd.backward`, straight to the engine.

    The public function suspends the active TorchFunctionMode while it runs, so that what is recomputed inside it
    (activation checkpointing) would fall back to float32.
    """
    roots = (tensors,) if isinstance(tensors, torch.Tensor) else tuple(tensors)
    grads = (grad_tensors,) if isinstance(grad_tensors, torch.Tensor) else tuple(grad_tensors or [None] * len(roots))
    pairs = [
        (root, torch.ones_like(root) if grad is None else grad)
        for root, grad in zip(roots, grads, strict=True)
        if root.requires_grad
    ]
    keep = create_graph if retain_graph is None else retain_graph
    Variable._execution_engine.run_backward(
        tuple(root for root, _ in pairs),
        tuple(grad for _, grad in pairs),
        keep,
        create_graph,
        tuple(inputs or ()),
        allow_unreachable=True,
        accumulate_grad=True,
    )


@contextlib.contextmanager
def _exchanged(mode: Mode) -> Iterator[None]:
    global _exchanging
    before, _exchanging = _exchanging, mode
    try:
        with exchanged.exchanged(mode.instead):
            yield
    finally:
        _exchanging = before


@contextlib.contextmanager
def computing_in(precision: str, mode: type[Mode] = Mode, exchange: bool = False) -> Iterator[torch.dtype]:
    """Within it, under fp64, tensors made without a dtype are float64 and so is every tensor asked for in float32.

    The lower precisions leave torch as it is: a model trained in bf16 makes its tables in float32. `mode` may rewrite
    calls for reasons of its own: one mode costs half of two.

    With `exchange` the mode sees calls of the functions that it could change, and of no others, which is a seventh of a rank's
    time. It is for code that has been imported by now: what somebody has kept in a table has all calls seen.
    """
    before, backward = torch.get_default_dtype(), torch.autograd.backward
    dtype = DTYPES[precision]
    promote = precision == "fp64"
    torch.set_default_dtype(torch.float64 if promote else torch.float32)
    try:
        if not promote and mode is Mode:
            yield dtype
            return
        torch.autograd.backward = _backward  # type: ignore[assignment]
        through = mode(promote=promote)
        with _exchanged(through) if exchange and exchanged.others() is not None else through:
            yield dtype
    finally:
        torch.autograd.backward = backward
        torch.set_default_dtype(before)


def as_stored() -> contextlib.AbstractContextManager[None]:
    """Within it nothing is promoted: a file's float32 tensor is read as float32."""
    return torch._C.DisableTorchFunction()


@contextlib.contextmanager
def unpromoted() -> Iterator[None]:
    """Within it nothing is promoted, and what else the active mode does goes on."""
    active = _get_current_function_mode()
    active = active if isinstance(active, Mode) else _exchanging
    if active is None:
        yield
        return
    before, active.promote = active.promote, False
    try:
        yield
    finally:
        active.promote = before


def make_deterministic() -> dict[str, str]:
    """Set what makes runs repeatable and float32 products exact, and return it for the report."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    # The same as use_deterministic_algorithms(True, warn_only=True), which would import all of torch's compiler first.
    torch.set_deterministic_debug_mode("warn")
    return {
        "deterministic_algorithms": str(torch.are_deterministic_algorithms_enabled()),
        "tf32": str(torch.backends.cuda.matmul.allow_tf32),
        "cudnn_benchmark": str(torch.backends.cudnn.benchmark),
    }


class Unfilled:
    """Within it torch.empty leaves memory as it is.

    Under deterministic algorithms torch fills it with NaN, which shows a model that reads what nobody has written. Memory that
    is written whole at once need not be written twice.
    """

    _switch: Any = torch.utils.deterministic

    def __enter__(self) -> None:
        self._before = self._switch.fill_uninitialized_memory
        self._switch.fill_uninitialized_memory = False

    def __exit__(self, *raised: object) -> None:
        self._switch.fill_uninitialized_memory = self._before
