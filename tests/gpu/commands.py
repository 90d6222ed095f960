"""Plumbline's command, as these tests start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m validation run`, with its results and its references in the folder; variables go into its environment."""
    command = [sys.executable, "-m", "validation", "run", "-v", "--results", str(folder / "results"), *words]
    environment = {**os.environ, "PLUMBLINE_CACHE": str(folder / "cache"), "CI": "", **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
