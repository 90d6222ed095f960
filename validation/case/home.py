"""Where what outlives a command is kept."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """$PLUMBLINE_CACHE, or plumbline below the user's cache folder."""
    cache = os.environ.get("PLUMBLINE_CACHE")
    return Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "plumbline"
