"""Ports for processes that tests start, which find each other by one."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

_CHOSEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ROOM = 8192
_PROCESSES = 16
"""Of pytest-xdist, each of which has ports of its own."""
_given: set[int] = set()


def free_port() -> int:
    """A port that is free on this machine, that no other process is given unless it asks for it, and that no other test gets.

    The kernel chooses for whoever asks for none: such a port may be another's before it is used. So this one lies below those.
    """
    lowest = int(_CHOSEN.read_text().split()[0]) if _CHOSEN.exists() else 32768
    first = max(1024, lowest - _ROOM)
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = [port for port in range(first, lowest) if port % _PROCESSES == own % _PROCESSES and port not in _given]
    while True:
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", secrets.choice(ports) if ports else 0))
            except OSError:
                continue
            _given.add(port := int(found.getsockname()[1]))
            return port
