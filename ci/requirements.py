"""The versions of libraries that results may be made with: those of requirements/, by the Python that makes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from validation.case.case import ON_CPU

FOLDER = Path(__file__).parents[1] / "requirements"
TOLD = ("torch", "transformers", "megatron-core", "transformer-engine")
"""The libraries whose versions stand in results."""
COMPARED = ("transformers", "megatron-core")


def required(transport: str, implementation: str, folder: Path = FOLDER) -> tuple[str, ...]:
    """Requirements as pip writes them, of what a session with this transport and implementation installs.

    A requirement with a marker holds for some Pythons. The two libraries that are compared must be what the files say. A
    torch, or a Transformer Engine, that is newer than what was run with them is an image's own choice.
    """
    files = ["cpu" if transport in ON_CPU else "cuda", *(["te"] if implementation == "te" else [])]
    wanted = [one for name in files for one in _wanted(folder / f"{name}.txt")]
    found = [(one, _versions(one)) for name in TOLD for one in wanted if one.name == name]
    return tuple(f"{one.name}{versions}{f'; {one.marker}' if one.marker else ''}" for one, versions in found if versions)


def of_others(requirements: Iterable[str], libraries: Collection[str]) -> tuple[str, ...]:
    """The requirements that are about none of these libraries."""
    return tuple(line for line in requirements if Requirement(line).name not in libraries)


def unmet(requirements: Iterable[str], versions: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each requirement that these versions, library -> version, do not meet; Python's is `python`.

    A requirement with a marker holds for some Pythons, and is not met where the Python is unknown.
    """
    python = _python(versions["python"]) if "python" in versions else None
    for one in map(Requirement, requirements):
        found, wanted = versions.get(one.name, "absent"), str(one.specifier)
        if one.marker is None:
            with_python = ""
        elif python is None:
            yield f"does not say with which Python it was made, and that of {one.name} goes by it"
            continue
        elif one.marker.evaluate({"python_version": python}):
            with_python = f" with Python {python}"
        else:
            continue
        if not fits(found, wanted):
            yield f"made with {one.name} {found}, and {wanted} is required{with_python}"


def fits(found: str, wanted: str) -> bool:
    """Whether a version is one of those that are wanted; text that is no version, or names none, never is."""
    try:
        return SpecifierSet(wanted).contains(Version(found), prereleases=True)
    except ValueError:  # packaging's own are, and so is that of a number with too many digits
        return False


def _python(said: str) -> str | None:
    """Major and minor version; None of what is no version."""
    try:
        found = Version(said.removesuffix("+"))  # a Python that somebody built ends in one
    except ValueError:
        return None
    return f"{found.major}.{found.minor}"


def _wanted(path: Path) -> list[Requirement]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.partition("#")[0].strip()
        if words.startswith("-r"):
            found += _wanted(path.parent / words.removeprefix("-r").strip())
        elif words:
            found.append(Requirement(words))
    return found


def _versions(wanted: Requirement) -> str:
    """All that the file says of a library that is compared; of others the lower bound alone, empty where there is none."""
    if wanted.name in COMPARED:
        return str(wanted.specifier)
    bounds = [Version(one.version) for one in wanted.specifier if one.operator in (">=", "==", "~=")]
    return f">={max(bounds)}" if bounds else ""
