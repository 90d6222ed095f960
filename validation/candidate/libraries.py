"""Which cuDNN a process computes with: Transformer Engine may load another one than torch."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_FILE = re.compile(r"/\S*/libcudnn\.so\S*")


def cudnn(maps: str | None = None) -> str:
    """Its version, and the files that are loaded: `9.14.0 (/usr/lib/x86_64-linux-gnu/libcudnn.so.9.14.0)`; '' for none.

    Where there are several, the parts of one do the work of all, and each says that one's version. `maps` is what the
    process has mapped, as Linux says it.
    """
    try:
        mapped = _MAPS.read_text() if maps is None else maps
    except OSError:
        return ""
    files = list(dict.fromkeys(_FILE.findall(mapped)))
    return f"{_version(files[0])} ({', '.join(files)})" if files else ""


def _version(path: str) -> str:
    try:
        number = int(ctypes.CDLL(path).cudnnGetVersion())
    except (OSError, AttributeError):
        return "?"
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
