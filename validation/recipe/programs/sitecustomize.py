"""Read by every Python of a capture, as it starts: one that would train is written down, by whatever path it was called."""

from __future__ import annotations

import importlib.util
import os
import sys


def _called() -> list[str]:
    """The command line of this process, the interpreter's own options among it."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        return list(getattr(sys, "orig_argv", []))


def _next() -> None:
    """Run the sitecustomize that this one stands before, if there is one."""
    here = os.path.dirname(os.path.abspath(__file__))
    for folder in sys.path:
        place = os.path.join(folder, "sitecustomize.py")
        if os.path.abspath(folder) != here and os.path.isfile(place):
            spec = importlib.util.spec_from_file_location("sitecustomize", place)
            if spec is not None and spec.loader is not None:
                spec.loader.exec_module(importlib.util.module_from_spec(spec))
            return


def _start() -> None:
    folder = os.environ.get("PLUMBLINE_CAPTURE", "")
    place = os.path.join(folder, "site", "plumbline_record.py")
    if not folder or not os.path.isfile(place):
        return
    spec = importlib.util.spec_from_file_location("plumbline_record", place)
    if spec is None or spec.loader is None:
        return
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    code = record.of_python(_called())
    if code is not None:
        os._exit(code)


_start()
_next()
