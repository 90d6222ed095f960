"""The loopback interface, over which ranks talk."""

from __future__ import annotations

import contextlib
import socket

ADDRESS = "127.0.0.1"
"""As a number: a machine may resolve `localhost` to another address, or not at all."""
_SECONDS = 5.0


def problem() -> str | None:
    """Why a process cannot reach another one of this machine over it, None where it can."""
    try:
        with socket.socket() as listening, contextlib.ExitStack() as stack:
            listening.settimeout(_SECONDS)
            listening.bind((ADDRESS, 0))
            listening.listen()
            asking = stack.enter_context(socket.create_connection(listening.getsockname(), timeout=_SECONDS))
            asking.sendall(b"1")
            answering = stack.enter_context(listening.accept()[0])
            answering.settimeout(_SECONDS)
            answering.recv(1)
    except OSError as error:
        return str(error.strerror or error)
    return None


def sentence(reason: str) -> str:
    """What to say and to do about a problem."""
    return (
        f"no process can reach another one at {ADDRESS} ({reason}), and ranks talk over that address; "
        "bring the loopback interface up with `ip link set lo up`, or let connections to it through"
    )
