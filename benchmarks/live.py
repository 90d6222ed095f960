"""How many bytes tensors take on a CPU, where no allocator counts them.

A storage counts from the operation that makes it to its end. What an operation takes inside itself is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Within it storages are counted: `now` there are so many bytes of them, and there were `most` at once."""

    def __init__(self, given: Iterable[torch.Tensor] = ()) -> None:
        """The storages of `given` are not counted."""
        super().__init__()
        self.now = self.most = 0
        self._given = list(given)
        self._known = {self._number(one.untyped_storage()) for one in self._given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call it, and count the storages that are new in what it returns."""
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self._count(one.untyped_storage())
        return made

    @staticmethod
    def _number(storage: torch.UntypedStorage) -> int:
        return int(storage._cdata)

    def _count(self, storage: torch.UntypedStorage) -> None:
        number, size = self._number(storage), storage.nbytes()
        if number not in self._known:
            self._known.add(number)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._ended, number, size)

    def _ended(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.now -= size
