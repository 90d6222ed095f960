"""torch elastic on each node: its agents meet in a store on the head, number the ranks, and wait for each other at the end.

elastic's own rendezvous waits for minutes for a node that is gone, in calls that cannot be ended. Here a wait looks whether the
run is over.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.run import launch, watch

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

BACKEND = "plumbline"
_POLL = 0.01


class Over(RuntimeError):
    """The run has ended while an agent waited for another one."""


class Store:
    """What elastic's agent needs of a store, on top of a TCPStore; waits end when the run does."""

    def __init__(self, inner: TCPStore, over: threading.Event) -> None:
        self._inner, self._over = inner, over
        self.timeout = timedelta(seconds=300)
        self.set, self.add = inner.set, inner.add

    def set_timeout(self, timeout: timedelta) -> None:
        """Elastic sets it around its last barrier."""
        self.timeout = timeout

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Until all of them are there. Raises Over."""
        end = time.monotonic() + (timeout or self.timeout).total_seconds()
        while not self._inner.check(list(keys)):
            if self._over.wait(_POLL) or time.monotonic() > end:
                raise Over("the run has ended while its nodes met")

    def get(self, key: str) -> bytes:
        """The value of a key, when it is there."""
        self.wait([key])
        return bytes(self._inner.get(key))

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """Those of several."""
        return [self.get(key) for key in keys]

    def multi_set(self, keys: Sequence[str], values: Sequence[str]) -> None:
        """Set several."""
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)


@dataclass(frozen=True)
class Group:
    """The agents of one run: this one's number among `size`, and where the store is that they and the ranks meet in."""

    rank: int
    size: int
    host: str
    store: TCPStore
    over: threading.Event

    @property
    def port(self) -> int:
        """Of the store."""
        return int(self.store.port)


def joined(rank: int, size: int, host: str, port: int, over: threading.Event, timeout: float) -> Group:
    """The same for a node that does not hold the store. Raises RuntimeError if it cannot be reached."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout))
    return Group(rank, size, host, store, over)


def run(
    group: Group, entry: Callable[..., None], arguments: tuple[Any, ...], ranks: int, folder: Path, over: watch.Watch
) -> None:
    """Run `entry(*arguments)` in this node's ranks, over which `over` watches. Raises as launch.unless_gone does, and Over."""
    launch.unless_gone(lambda: _run(group, entry, arguments, ranks, folder), over)


def _run(group: Group, entry: Callable[..., None], arguments: tuple[Any, ...], ranks: int, folder: Path) -> None:
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry

    if BACKEND not in _registered:
        rendezvous_handler_registry.register(BACKEND, _handler)
        _registered.add(BACKEND)
    name = f"{id(group)}-{time.monotonic_ns()}"
    _groups[name] = group
    try:
        meeting = {"min_nodes": group.size, "max_nodes": group.size, "run_id": name, "rdzv_backend": BACKEND}
        launch.agent(entry, arguments, ranks, folder, **meeting, rdzv_endpoint=group.host, local_addr=group.host)
    finally:
        del _groups[name]


_registered: set[str] = set()
_groups: dict[str, Group] = {}
"""By the run's name, which is all of ours that reaches a rendezvous."""


def _handler(parameters: Any) -> Any:
    """What elastic asks for as soon as it knows the run."""
    from torch.distributed.elastic.rendezvous.api import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

    group = _groups[parameters.run_id]

    class Rendezvous(RendezvousHandler):
        """All is known: the head has told each node its number."""

        use_agent_store = True

        def get_backend(self) -> str:
            return BACKEND

        def next_rendezvous(self) -> RendezvousInfo:
            store: Any = Store(group.store, group.over)
            return RendezvousInfo(store, group.rank, group.size, RendezvousStoreInfo(group.host, group.port))

        def is_closed(self) -> bool:
            return False

        def set_closed(self) -> None:
            pass

        def num_nodes_waiting(self) -> int:
            return 0

        def get_run_id(self) -> str:
            return str(parameters.run_id)

        def shutdown(self) -> bool:
            return True

    return Rendezvous()


def with_interface(variables: dict[str, str], entry: Callable[..., None], *arguments: Any) -> None:
    """Every rank of a run on several nodes: `entry`, which talks through the interface that reaches the others."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.pop(name, None)
    os.environ.update(variables)
    entry(*arguments)
