"""Asking git about a tree."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_KEPT = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
"""Where a user's settings are: none of them hides a file from what is asked here."""


def answer(root: Path, *words: str) -> str | None:
    """What git says in the repository whose root this is; None where it has no answer, or is not here."""
    # A container's checkout belongs to somebody else: git would refuse to look at the tree whose code is running already.
    command = ["git", "-c", f"safe.directory={root}", "-c", "core.fsmonitor=false", "-C", str(root), *words]
    # Variables such as GIT_DIR, which a hook sets, would have it look at another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in _KEPT}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip("\n")
    except (OSError, subprocess.SubprocessError):
        return None
