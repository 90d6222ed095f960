"""The experts of a layer, held once for every run of it, and lent to transformers one by one.

transformers' eager experts take one expert after the other out of a stacked tensor. Autograd answers each such index with a
gradient as large as all experts, and a truth in a wider dtype would need them all in that dtype. What stands here in the place
of the stacked tensor lends one expert at a time: in the dtype that the run computes in, and with a gradient of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

Arrived = Callable[[int, torch.Tensor], None]
"""What takes an expert's gradient as soon as it is there, by the expert's number."""


class Numbers:
    """The numbers of experts that transformers asks for by tensors: a GPU is waited for once where one is asked for twice."""

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, int] | None = None

    def of(self, expert: torch.Tensor) -> int:
        """The number of an expert."""
        if self._last is None or self._last[0] is not expert:
            self._last = expert, int(expert)
        return self._last[1]


class Stack:
    """In the place of a stacked tensor, [experts, rows, columns], of which one expert is taken at a time.

    What is held is in the dtype of the case's weights; a run that computes in another gets an expert that is made wider for
    each product, and has no gradient. `arrived` takes the gradients of the others.
    """

    def __init__(
        self, held: torch.Tensor, dtype: torch.dtype, arrived: Arrived | None = None, numbers: Numbers | None = None
    ) -> None:
        self._held, self._dtype, self._arrived = held, dtype, arrived
        self._numbers = numbers or Numbers()

    def __getitem__(self, expert: torch.Tensor) -> torch.Tensor | Wider:
        """One expert's matrix, [rows, columns]."""
        number = self._numbers.of(expert)
        held = self._held[number]
        if self._dtype != held.dtype:
            return Wider(held, self._dtype)
        arrived = self._arrived
        if arrived is None or not torch.is_grad_enabled():
            return held
        leaf = held.detach().requires_grad_()

        def take(leaf: torch.Tensor) -> None:
            gradient, leaf.grad = leaf.grad, None
            if gradient is not None:
                arrived(number, gradient)

        leaf.register_post_accumulate_grad_hook(take)
        return leaf


class Wider:
    """A matrix that is computed with in a wider dtype than it is held in: no graph keeps the wide one."""

    def __init__(self, held: torch.Tensor, dtype: torch.dtype) -> None:
        self.held, self.dtype = held, dtype

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is not functional.linear or kwargs or len(args) != 2 or not isinstance(args[1], cls):
            raise TypeError(f"an expert that is lent takes part in linear products alone, not in {func}")
        return _Product.apply(args[0], args[1])


class _Product(torch.autograd.Function):
    """`functional.linear` of rows with a matrix made wider, in both passes."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, lent: Wider) -> torch.Tensor:
        ctx.lent = lent
        return functional.linear(rows, lent.held.to(lent.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient @ ctx.lent.held.to(ctx.lent.dtype), None
