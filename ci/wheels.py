"""Where GPU sessions keep what they have compiled: Transformer Engine's PyTorch part, which package indexes have as source.

It fits one torch, one Python and one kind of processor; each such set has a folder.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "PLUMBLINE_WHEELS"
"""Names the folder; `~/.cache/plumbline/wheels` without it."""
PART = "transformer-engine-torch"
TOOLS = ("setuptools", "wheel", "packaging", "pybind11", "ninja")
"""What its setup.py imports."""
_PINNED = re.compile(r"^transformer-engine\[[\w,]+\]==([\w.]+)\s*$", re.MULTILINE)


def pinned(requirements: str) -> str:
    """The version of Transformer Engine in the text of requirements/te.txt. Raises ValueError if it is not pinned."""
    found = _PINNED.search(requirements)
    if found is None:
        raise ValueError("requirements/te.txt pins no version of transformer-engine; write transformer-engine[...]==VERSION")
    return found[1]


def folder(environment: Mapping[str, str], torch: str) -> Path:
    """Of wheels for a torch of this version and for this Python."""
    place = environment.get(VARIABLE) or str(Path(environment.get("HOME", "/")) / ".cache" / "plumbline" / "wheels")
    return Path(place) / f"torch-{torch}-{sys.implementation.cache_tag}-{platform.machine()}"


def kept(place: Path, version: str) -> Path | None:
    """The wheel of the PyTorch part of this version; None if there is none yet."""
    return next(iter(sorted(place.glob(f"{PART.replace('-', '_')}-{version}-*.whl"))), None)
