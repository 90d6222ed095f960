"""What the fork server imports: `warm`, or what kept it from being imported, which every rank then says in its own report.

The fork server passes over an ImportError without a word and dies of any other exception.
"""

from __future__ import annotations

import signal

if signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()):  # by whoever started the fork server
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

try:
    from validation.run import warm  # noqa: F401
except Exception as error:
    _failed: Exception | None = error
else:
    _failed = None


def check() -> None:
    """Raise what was raised by the import: a second one would find some modules half imported and fail in another way."""
    if _failed is not None:
        raise _failed
