"""The versions of libraries that results may be made with: those of requirements/."""

from __future__ import annotations

from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from validation.case.case import ON_CPU

FOLDER = Path(__file__).parents[1] / "requirements"
TOLD = ("torch", "transformers", "megatron-core", "transformer-engine")
"""The libraries whose versions stand in results."""
COMPARED = ("transformers", "megatron-core")


def required(transport: str, implementation: str, folder: Path = FOLDER) -> dict[str, str]:
    """Library -> versions as pip writes them, of what a session with this transport and implementation installs.

    The two that are compared must be what the files say. A torch, or a Transformer Engine, that is newer than what was run
    with them is an image's own choice.
    """
    files = ["cpu" if transport in ON_CPU else "cuda", *(["te"] if implementation == "te" else [])]
    wanted = {one.name: one.specifier for name in files for one in _wanted(folder / f"{name}.txt")}
    versions = {name: str(wanted[name]) if name in COMPARED else _from(wanted[name]) for name in TOLD if name in wanted}
    return {name: version for name, version in versions.items() if version}


def _wanted(path: Path) -> list[Requirement]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.partition("#")[0].strip()
        if words.startswith("-r"):
            found += _wanted(path.parent / words.removeprefix("-r").strip())
        elif words:
            found.append(Requirement(words))
    return found


def _from(wanted: SpecifierSet) -> str:
    """The lower bound alone; empty where there is none."""
    bounds = [Version(one.version) for one in wanted if one.operator in (">=", "==", "~=")]
    return f">={max(bounds)}" if bounds else ""
