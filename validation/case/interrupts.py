"""An interrupt ends a command wherever it comes, also while a library is being imported. So does SIGTERM, by the same way.

Python raises KeyboardInterrupt in whatever line it runs. In the middle of an import C code may drop the exception, or the
import fails in another way later: numpy's core cannot be imported twice. So an interrupt waits for the end of an import. One
that a finaliser drops comes again.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_IMPORTING = "<frozen importlib._bootstrap>"
"""The file of the frames that import a module."""
_AGAIN = 0.005
"""Seconds until an interrupt that has to wait looks again."""
_DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class _Interrupts:
    """Those of this process."""

    waiting = terminated = False


def listen() -> None:
    """Take both signals, each unless the process was started to ignore it, as in the background of a script."""
    for number, default in _DEFAULTS.items():
        if signal.getsignal(number) is default:
            signal.signal(number, _interrupted)
            signal.signal(signal.SIGALRM, _interrupted)
            sys.unraisablehook = _unraisable


def over() -> None:
    """Take no more: the command has ended, and its exit code stands."""
    for number in _DEFAULTS:
        if signal.getsignal(number) is _interrupted:
            signal.signal(number, signal.SIG_IGN)
    if signal.getsignal(signal.SIGALRM) is _interrupted:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


@contextmanager
def held() -> Iterator[None]:
    """Within it an interrupt from the keyboard waits. Threads and processes that are started there do not hear of any."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end() -> None:
    """If SIGTERM has ended the command, end this process as one that does not listen to it."""
    if _Interrupts.terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def _interrupted(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, at once for who interrupts twice."""
    twice = number in _DEFAULTS and _Interrupts.waiting
    _Interrupts.terminated |= number == signal.SIGTERM
    _Interrupts.waiting = not twice and _is_importing(frame)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN if _Interrupts.waiting else 0)
    if not _Interrupts.waiting:
        raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False


def _unraisable(unraisable: Any) -> None:
    """Called by Python for what a finaliser or a callback raises, which goes no further."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)
    else:
        sys.__unraisablehook__(unraisable)
