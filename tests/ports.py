"""Ports for processes that tests start, which find each other by one."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

_CHOSEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ROOM = 8192


def free_port() -> int:
    """A port that is free on this machine, and that no other process is given unless it asks for it.

    The kernel chooses for whoever asks for none: such a port may be another's before it is used. So this one lies below those.
    """
    lowest = int(_CHOSEN.read_text().split()[0]) if _CHOSEN.exists() else 32768
    first = max(1024, lowest - _ROOM)
    while True:
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", first + secrets.randbelow(lowest - first) if first < lowest else 0))
            except OSError:
                continue
            return int(found.getsockname()[1])
