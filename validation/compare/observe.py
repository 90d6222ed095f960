"""Seeing what a function returns while a module runs, without touching the module."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Observed(TorchFunctionMode):
    """Within it, the result of each call to one of `functions` is handed to `seen`.

    The router's scores are neither a module's output on the HuggingFace side nor on Megatron's: both take them from a
    sigmoid inside a longer function.
    """

    def __init__(self, functions: Collection[Callable[..., Any]], seen: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self._functions, self._seen = functions, seen

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in self._functions:
            self._seen(result)
        return result


SIGMOID = (torch.sigmoid, torch.Tensor.sigmoid)
