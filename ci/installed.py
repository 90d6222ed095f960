"""Whether the files of an installed package are still those that it was built from.

The build has written down a digest of each (hatch_build.py): there is no git to ask.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_BUILT = "build.json"
_COMPILED = "__pycache__"


def as_built(folder: Path, digests: Mapping[str, str]) -> bool:
    """Whether the package in this folder has the files with these digests (SHA-256, by relative path), and no others."""
    if {_BUILT, *digests} != set(_files(folder)):
        return False
    return all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in digests.items())


def _files(folder: Path) -> Iterator[str]:
    """What Python has compiled is left out."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != _COMPILED]
        yield from (str(Path(place, name).relative_to(folder)) for name in names)
