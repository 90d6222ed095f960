"""What a machine has run out of, or does not allow, told from an exception. It is no finding, and lasting."""

from __future__ import annotations

import contextlib
import errno
import re
import signal
from collections.abc import Iterator

from validation.case.errors import EnvironmentMissing, PlumblineError

_DISK = {
    errno.ENOSPC: "no space, or no inode, is left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "no file may get that large (`ulimit -f`)",
    errno.EROFS: "the file system can only be read",
}
_PROCESS = {
    errno.EMFILE: "no more files may be open in a process (`ulimit -n`)",
    errno.ENFILE: "no more files may be open on this machine",
}
_MEANS = _DISK | _PROCESS
NO_ROOM = "no space is left"
"""What Plumbline says of a folder where it finds so itself."""
_SAID = {
    errno.ENOSPC: "No space left on device",
    errno.EDQUOT: "Disk quota exceeded",
    errno.EFBIG: "File too large",
    errno.EROFS: "Read-only file system",
    errno.EMFILE: "Too many open files",
    errno.ENFILE: "Too many open files in system",
}
"""The operating system's words, in which libraries hand an error on."""
_NUMBERED = re.compile(r"(?:os error|Os \{ code:|[Ee]rrno:?) ?(\d+)")
_SHORT_WRITE = re.compile(r"PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+|requested and \d+ written")
"""What torch and NumPy say of a file that did not take all that was written."""
_NO_THREAD = re.compile(
    r"can't start new thread|Thread creation failed|pthread_create|^\s*(what\(\):\s+)?Resource temporarily unavailable",
    re.MULTILINE,
)
"""What Python, OpenMP and the C++ library say where no thread can be started."""
_THREADS = "no more processes or threads may be started (`ulimit -u`, or the control group's pids.max)"
_LIBRARIES = ("RuntimeError", "SafetensorError")
"""Whose words count: libraries hand on in them what the operating system has said."""


_SIGNALS = {
    signal.SIGXCPU: "no more CPU time may be used (`ulimit -t`)",
    signal.SIGXFSZ: _DISK[errno.EFBIG],
}
"""With which the operating system ends a process at a limit."""


def by_exit_code(code: int) -> str | None:
    """What a process has run out of that a signal has ended, by its exit code as Python's subprocess has it."""
    return _SIGNALS.get(signal.Signals(-code)) if code < 0 else None


def told(error: BaseException) -> str | None:
    """What the machine has run out of, None for every other exception. A library's own may name the system's as its cause."""
    seen: BaseException | None = error
    while seen is not None:
        if found := _told(seen):
            return found
        seen = seen.__cause__
    return None


@contextlib.contextmanager
def in_a_sentence(doing: str = "") -> Iterator[None]:
    """Within it such an exception becomes EnvironmentMissing; `doing` is what could not be done, else the exception's file."""
    try:
        yield
    except PlumblineError:
        raise
    except Exception as error:
        words = told(error)
        if words is None:
            raise
        what = doing or getattr(error, "filename", None) or "this command cannot go on"
        raise EnvironmentMissing(f"{what}: {words}; {remedy(words)}") from error


def remedy(words: str) -> str:
    """What to do about what `told` says."""
    if is_of_disk(words):
        return "make room there, or name another folder (--results, PLUMBLINE_CACHE or TMPDIR)"
    return "raise that limit, or choose a layout of fewer ranks and --jobs 1"


def is_of_disk(words: str) -> bool:
    """Whether what `told` says is about a disk."""
    return words in _DISK.values()


def _told(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno is not None:
        return _THREADS if error.errno == errno.EAGAIN else _MEANS.get(error.errno)
    of_library = isinstance(error, OSError) or any(kind.__name__ in _LIBRARIES for kind in type(error).__mro__)
    return in_words(str(error)) if of_library else None


def in_words(text: str) -> str | None:
    """The same from what a library says."""
    number = _NUMBERED.search(text)
    if number and int(number[1]) in _MEANS:
        return _MEANS[int(number[1])]
    for code, words in reversed(_SAID.items()):
        if words in text:
            return _MEANS[code]
    if NO_ROOM in text or _SHORT_WRITE.search(text):
        return _DISK[errno.ENOSPC]
    return _THREADS if _NO_THREAD.search(text) else None
