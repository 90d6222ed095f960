"""Whether a rank of a CPU case can import what it runs: tried in a process of its own, as a rank does it."""

from __future__ import annotations

import os
import subprocess
import sys

from validation.run import absent

_SECONDS = 300.0
"""Far more than the import takes on any machine."""


def problem() -> str | None:
    """What keeps a rank from importing megatron-core and the rest, in a sentence; None if nothing does."""
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    ranks = {"PLUMBLINE_TRANSPORT": "gloo", "PLUMBLINE_STEPS": "", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    command = [sys.executable, "-c", "from validation.run import importable; importable.tell()"]
    try:
        done = subprocess.run(
            command, env={**os.environ, **ranks}, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"importing it took longer than {_SECONDS:g} s"
    if done.returncode == 0:
        return None
    said = [line for line in (done.stdout or done.stderr).splitlines() if line.strip()]
    return said[-1] if said else f"importing it ended with exit status {done.returncode}"


def tell() -> None:
    """In that process: print what is wrong, and end with 1."""
    from validation.run import preload

    try:
        preload.check()
    except Exception as error:
        lacking = absent.lacking(error)
        sys.exit(_said(lacking or f"it cannot be imported: {absent.told(error)}"))


def _said(sentence: str) -> int:
    sys.stdout.write(f"\n{' '.join(sentence.split())}\n")
    return 1
