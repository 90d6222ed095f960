"""The oldest versions of libraries that results may be made with: the lower bounds of requirements/."""

from __future__ import annotations

from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from validation.case.case import ON_CPU

FOLDER = Path(__file__).parents[1] / "requirements"
TOLD = ("torch", "transformers", "megatron-core", "transformer-engine")
"""The libraries whose versions stand in results."""


def minimum(transport: str, implementation: str, folder: Path = FOLDER) -> dict[str, str]:
    """Library -> oldest version, of what a session with this transport and implementation installs."""
    files = ["cpu" if transport in ON_CPU else "cuda", *(["te"] if implementation == "te" else [])]
    bounds = {wanted.name: bound for name in files for wanted in _wanted(folder / f"{name}.txt") if (bound := _lower(wanted))}
    return {name: bounds[name] for name in TOLD if name in bounds}


def _wanted(path: Path) -> list[Requirement]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.partition("#")[0].strip()
        if words.startswith("-r"):
            found += _wanted(path.parent / words.removeprefix("-r").strip())
        elif words:
            found.append(Requirement(words))
    return found


def _lower(wanted: Requirement) -> str:
    bounds = [Version(one.version) for one in wanted.specifier if one.operator in (">=", "==", "~=")]
    return str(max(bounds)) if bounds else ""
