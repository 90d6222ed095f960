"""Fewer threads and sockets for a rank that talks over gloo. Nothing here changes what is sent."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

_GROUP: Any = dist.ProcessGroupGloo


@contextlib.contextmanager
def few_threads(transport: str) -> Iterator[None]:
    """Within it groups are made with as few threads as can be, if ranks talk over gloo."""
    with contextlib.ExitStack() as stack:
        if transport == "gloo":
            stack.enter_context(one_device())
            stack.enter_context(one_group_of_one())
        yield


@contextlib.contextmanager
def one_device() -> Iterator[None]:
    """Within it all groups have one device in common, which is a thread and a socket. torch makes one for each group.

    https://github.com/pytorch/pytorch/blob/v2.13.0/torch/csrc/distributed/c10d/ProcessGroupGloo.cpp
    """
    names = vars(distributed_c10d)

    class OnOneDevice(_GROUP):
        """A group of the usual kind."""

        def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
            super().__init__(store, rank, size, options(timeout))

    names["ProcessGroupGloo"] = OnOneDevice
    try:
        yield
    finally:
        names["ProcessGroupGloo"] = _GROUP


def options(timeout: timedelta, threads: int = 1, lanes: int = 1) -> Any:
    """Of a group on the devices that this process has for all of them. It works off what it is asked with so many `threads`.

    torch takes two threads for each device. Of devices there are as many as `lanes`: one moves what passes through it with a
    thread of its own, and collectives that are under way at the same time go over all of them in turn.
    """
    found = _GROUP._Options()
    devices = _devices(os.environ.get("GLOO_SOCKET_IFNAME", ""), lanes)
    found._devices, found._threads, found._timeout = list(devices), threads, timeout
    return found


@functools.cache
def _devices(interfaces: str, lanes: int) -> tuple[Any, ...]:
    """So many of each interface that is named, or of the one that torch chooses; once in a process."""
    named = [_GROUP.create_device(interface=name) for name in interfaces.split(",") if name for _ in range(lanes)]
    return tuple(named or [_GROUP.create_default_device() for _ in range(lanes)])


@contextlib.contextmanager
def one_group_of_one() -> Iterator[None]:
    """Within it all groups of the same single rank are one: gloo starts three threads for each, whoever has nobody to talk to.

    megatron-core makes 17 groups a rank, most of them for degrees that are 1.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/parallel_state.py
    """
    make = dist.new_group
    made: dict[tuple[int, ...], Any] = {}

    def once(ranks: Any = None, *given: Any, **named: Any) -> Any:
        alone = tuple(ranks or ())
        if len(alone) != 1 or named.get("backend"):
            return make(ranks, *given, **named)
        if alone not in made:
            made[alone] = make(ranks, *given, **named)
        return made[alone]

    vars(dist)["new_group"] = once
    try:
        yield
    finally:
        vars(dist)["new_group"] = make
