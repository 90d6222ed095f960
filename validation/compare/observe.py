"""Seeing what a router or an indexer computes while it runs, and making its choice for it, without touching the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_SCORES = frozenset((torch.sigmoid, torch.Tensor.sigmoid, torch.softmax, torch.Tensor.softmax))
"""What makes scores of logits: DeepSeek-V3's sigmoid, DeepSeek-V2's softmax."""
_TOPK = frozenset((torch.topk, torch.Tensor.topk))

_PRODUCTS = frozenset((torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__))

Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From the experts that a router has chosen, and the scores that it chose them by, to those that it is to go on with; each
[tokens, k]."""


class Router(TorchFunctionMode):
    """Within it, one router's scores go through `scores`, and its choice goes through `choose`.

    The scores are neither a module's output on the HuggingFace side nor on Megatron's: both make them inside a longer
    function, and both choose by a topk over all experts of each token (those over groups have other shapes). The
    first of each counts: a balancing loss takes its own of the same logits later. megatron-core's own router replay
    (0.16) skips the choice that it replaces, so that it could not be compared, and older releases have none.
    """

    def __init__(self, experts: int, scores: Callable[[torch.Tensor], torch.Tensor], choose: Choose) -> None:
        super().__init__()
        self._experts, self._scores, self._choose = experts, scores, choose
        self._scored = self._chosen = False
        self._seen: torch.Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _SCORES and not self._scored:
            self._scored = True
            self._seen = self._scores(result)
            return self._seen
        if func in _TOPK and not self._chosen and args[0].dim() == 2 and args[0].shape[-1] == self._experts:
            self._chosen = True
            chosen = self._choose(result.indices, result.values)
            if chosen is not result.indices:
                # Other groups' experts are hidden in what was chosen from, and not in the scores, which are what is read.
                scores = args[0] if self._seen is None else self._seen
                return torch.return_types.topk((scores.gather(-1, chosen), chosen))
        return result


class Indexer(TorchFunctionMode):
    """Within it, one indexer's choice of keys goes through `choose`, as a router's does (Router).

    It is a topk over the keys that each query of each sequence sees, minus infinity for the others. `products` gets query and
    key of the first product, if they are no module's output.
    """

    def __init__(self, choose: Choose, products: Callable[[torch.Tensor, torch.Tensor], None] | None = None) -> None:
        super().__init__()
        self._choose, self._products = choose, products
        self._chosen = False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS and self._products is not None:
            self._products(args[0], args[1])
            self._products = None
        result = func(*args, **(kwargs or {}))
        if func in _TOPK and not self._chosen and args[0].dim() == _BY_SEQUENCE:
            self._chosen = True
            chosen = self._choose(args[0], result.indices)
            if chosen is not result.indices:
                return torch.return_types.topk((args[0].gather(-1, chosen), chosen))
        return result


_BY_SEQUENCE = 3
