"""Asking git about a tree."""

from __future__ import annotations

import subprocess
from pathlib import Path


def answer(root: Path, *words: str) -> str | None:
    """What git says in the repository whose root this is; None where it has no answer, or is not here."""
    # A container's checkout belongs to somebody else: git would refuse to look at the tree whose code is running already.
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
