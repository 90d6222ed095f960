"""The fork server of ranks as a fork of the process that computes references.

Both begin with torch, its tensors that ranks share and its compiler: 1.8 s of CPU. If both start at the same time, the one
imports them for both. multiprocessing itself starts a fork server from nothing, so this sets the fields by which it knows one:
https://github.com/python/cpython/blob/v3.11.7/Lib/multiprocessing/forkserver.py
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
from collections.abc import Iterator
from multiprocessing import connection, forkserver, resource_tracker, util
from typing import Any, NoReturn

from validation.case import interrupts
from validation.case.case import ON_CPU

SERVER: Any = vars(forkserver)["_forkserver"]
"""What multiprocessing knows of the fork server of this process."""
_OTHER_PROTOCOL = (3, 14)
"""The Python whose fork server takes a key from whoever starts it."""


def possible() -> bool:
    """Whether the fork server, which is not there yet, can be a fork. On a GPU each process imports by itself.

    Nor if a standard stream is closed, whose number another file may have, or if Python leaves PYTHONPATH out.
    """
    on_cpu, there = os.environ.get("PLUMBLINE_TRANSPORT") in ON_CPU, SERVER._forkserver_address is not None
    usual = sys.version_info < _OTHER_PROTOCOL and not sys.flags.ignore_environment and all(map(_is_open, range(3)))
    return on_cpu and usual and not there


class _Forked:
    """A fork server that another process forks, and `told` the file by which it says its process id."""

    def __init__(self, address: str, alive: int, told: int) -> None:
        self._alive, self._told = alive, told
        self._pid = 0
        SERVER._forkserver_address, SERVER._forkserver_alive_fd = address, alive
        SERVER.ensure_running = self.ensure_running

    def ensure_running(self) -> None:
        """In place of multiprocessing's, which asks for an exit status: wait for it, and start another one if there is none."""
        with SERVER._lock:
            if vars(SERVER).get("ensure_running") == self.ensure_running:
                if self.pid(wait=True) and not _is_broken(self._alive):
                    return
                os.close(self._alive)
                SERVER._forkserver_address = SERVER._forkserver_alive_fd = None
                del SERVER.ensure_running
        type(SERVER).ensure_running(SERVER)

    def pid(self, wait: bool = False) -> int:
        """Its process id; 0 if there is no fork, or not yet."""
        if self._told >= 0 and (wait or select.select([self._told], [], [], 0)[0]):
            self._pid = int(os.read(self._told, 32) or 0)
            os.close(self._told)
            self._told = -1
        return self._pid


def pid() -> int:
    """The process id of the fork server that this process has started; 0 if there is none."""
    forked = getattr(vars(SERVER).get("ensure_running"), "__self__", None)
    started = SERVER._forkserver_pid or 0
    return forked.pid() if isinstance(forked, _Forked) and not started else started


def _is_broken(pipe: int) -> bool:
    """Whether nobody reads from the pipe any more."""
    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))


@contextlib.contextmanager
def offered() -> Iterator[tuple[str, list[int]]]:
    """Within it a process is to be started with this word and these files, which calls `serve`. Ranks are its forks then."""
    resource_tracker.ensure_running()
    address = vars(connection)["arbitrary_address"]("AF_UNIX")
    with contextlib.ExitStack() as its, contextlib.ExitStack() as ours, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        if not util.is_abstract_socket_namespace(address):
            os.chmod(address, 0o600)
        listener.listen()
        (alive_r, alive_w), (told_r, told_w) = os.pipe(), os.pipe()
        output = {number: os.dup(number) for number in (1, 2)}
        for number in (alive_r, told_w, *output.values()):
            its.callback(os.close, number)
        for number in (alive_w, told_r):
            ours.callback(os.close, number)
        word = {
            "preload": SERVER._preload_modules,
            "listener": listener.fileno(),
            "alive": alive_r,
            "told": told_w,
            "output": list(output.items()),
            "pythonpath": os.environ.get("PYTHONPATH"),
        }
        yield json.dumps(word), [listener.fileno(), alive_r, told_w, *output.values()]
        ours.pop_all()
        _Forked(address, alive_w, told_r)


def _is_open(number: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(number)
        return True
    return False


def serve(word: str) -> None:
    """Fork the fork server that `offered` has the word of. Comes back in this process alone. It must have one thread."""
    given = json.loads(word)
    with interrupts.held():  # the fork server lets them in again (validation.run.preload)
        if os.fork() == 0:
            _serve(given)
    for number in (given["listener"], given["alive"], given["told"], *(mine for _, mine in given["output"])):
        os.close(number)


def _serve(given: dict[str, Any]) -> NoReturn:
    """Be the fork server: with the output and the variables of whoever offered, and nothing on standard input."""
    try:
        for number, mine in (*given["output"], (0, os.open(os.devnull, os.O_RDONLY))):
            os.dup2(mine, number)
            os.close(mine)
        os.environ.pop("PYTHONPATH", None)
        if given["pythonpath"] is not None:
            os.environ["PYTHONPATH"] = given["pythonpath"]
        try:
            os.write(given["told"], str(os.getpid()).encode())
        except BrokenPipeError:  # whoever offered has ended
            os._exit(0)
        os.close(given["told"])
        vars(forkserver)["main"](given["listener"], given["alive"], given["preload"])
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)
