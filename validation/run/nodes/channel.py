"""The line between the head and one node: messages in JSON, files in pieces, and a sign of life now and then.

`multiprocessing.connection` frames what is sent, and lets each side prove that it knows the run's token without sending it.
Nothing is unpickled: a message is JSON of a limited size.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

from validation.case.errors import InfrastructureError

BEAT, SILENCE = 1.0, 30.0
"""Seconds between two signs of life, and after which a node that gives none is lost."""
_PIECE = 1 << 20
_LONGEST = 64 << 20
"""Bytes of a piece of a file, and of a message."""
_TEXT, _DATA = b"t", b"d"
_OTHER = "another program listens there, or a node that hangs"
Message = dict[str, Any]


class Lost(InfrastructureError):
    """The other side has ended, or cannot be reached."""


class WrongToken(InfrastructureError):
    """The other side has another token."""


class Channel:
    """Both ends are the same. One thread hears; any may say something."""

    def __init__(self, connection: Connection, token: bytes, *, asks_first: bool, patience: float = SILENCE) -> None:
        """Raises WrongToken, and Lost: also for another program, which may say anything or, for `patience` seconds, nothing."""
        self._connection, self._sending, self._one_file = connection, threading.Lock(), threading.Lock()
        self._over = threading.Event()
        waiting = threading.Timer(patience, self.close)
        waiting.daemon = True
        waiting.start()
        try:
            steps = (deliver_challenge, answer_challenge)
            for step in steps if asks_first else reversed(steps):
                step(connection, token)
        except (AuthenticationError, OSError, EOFError, AssertionError) as error:
            silent = self._over.is_set()
            self.close()
            if silent or isinstance(error, AssertionError) or _is_unknown(error):
                raise Lost(_OTHER) from None
            if isinstance(error, AuthenticationError):
                raise WrongToken("the tokens differ") from None
            raise Lost(_closed(error)) from None
        finally:
            waiting.cancel()
        self.own, self.peer = _addresses(connection)

    def say(self, kind: str, **what: Any) -> None:
        """Send a message. Raises Lost."""
        self._send(_TEXT + json.dumps({"kind": kind, **what}).encode())

    def _send(self, data: bytes) -> None:
        try:
            with self._sending:
                self._connection.send_bytes(data)
        except (OSError, ValueError) as error:
            raise Lost(f"the connection was closed ({error})") from None

    def hear(self, silence: float = SILENCE) -> Message | bytes:
        """The next message, or the next piece of the file that was announced. Raises Lost, after so many seconds without."""
        try:
            if not self._connection.poll(silence):
                raise Lost(f"nothing was heard of it for {silence:g} s")
            found = self._connection.recv_bytes(_LONGEST)
        except (OSError, EOFError, ValueError) as error:
            raise Lost(f"its connection was closed{f' ({error})' if str(error) else ''}") from None
        if found[:1] == _DATA:
            return found[1:]
        try:
            message = json.loads(found[1:])
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            raise Lost("it says what no node says")
        return message

    def send_file(self, path: Path, name: str, **about: Any) -> None:
        """Announce a file and send it. Raises Lost, and OSError if it cannot be read."""
        with self._one_file, path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.say("file", name=name, size=size, **about)
            while size > 0 and (piece := file.read(min(_PIECE, size))):
                size -= len(piece)
                self._send(_DATA + piece)

    def beat(self, also: Callable[[], Message] = dict) -> None:
        """Give a sign of life now and then, with what `also` says, until closed. In a thread of its own."""

        def beating() -> None:
            with contextlib.suppress(Lost):
                while not self._over.wait(BEAT):
                    self.say("alive", **also())

        threading.Thread(target=beating, name="beat", daemon=True).start()

    def close(self) -> None:
        """End it: whoever is sending or hearing here gets Lost."""
        self._over.set()
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as own:
            own.shutdown(socket.SHUT_RDWR)


def _is_unknown(error: Exception) -> bool:
    """Whether multiprocessing got a message that is none of its own, as it says from Python 3.12 on; before, it asserts."""
    return isinstance(error, AuthenticationError) and str(error).startswith("Protocol error")


def _closed(error: OSError | EOFError) -> str:
    return f"the connection was closed ({error or 'end of file'})"


def _addresses(connection: Connection) -> tuple[str, str]:
    """The address of this end and that of the other."""
    with socket.socket(fileno=os.dup(connection.fileno())) as own:
        return own.getsockname()[0], own.getpeername()[0]


def token_bytes(token: str) -> bytes:
    """The key of a token; without one every node of the run has the same."""
    return token.encode() or b"plumbline"
