"""What must be the same on every node of a run, and the sentence about what is not. No torch."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

from validation import checkout
from validation.case import tree
from validation.machine import version
from validation.run import plugin as plugins
from validation.run.options import Settings

_PACKAGES = ("torch", "safetensors", "numpy")
_SHORT, _LONGEST = 12, 300
_REMEDY = {
    "cases": "start the same command on every node",
    "plugin": "put the same file on every node",
    "nodes": "start the same command on every node",
}
_OTHERWISE = "install the same on every node"


def of(settings: Settings) -> dict[str, str]:
    """By what it is called: digests of code, versions of packages, and what is to be run."""
    core = checkout.core()
    return {
        "nodes": str(settings.place.count),
        "Plumbline": f"sources {_sources(tree.ROOT / 'validation')}",
        "Python": ".".join(platform.python_version_tuple()[:2]),
        **{name: version(name) for name in _PACKAGES},
        "megatron-core": f"{version('megatron-core')}, sources {_sources(core) if core else 'none'}",
        "cases": f"{_named(settings)} ({_digest(case.to_json() for case in settings.cases)})",
        "plugin": _of_plugin(settings.plugin),
    }


def _named(settings: Settings) -> str:
    return ", ".join(case.name for case in settings.cases)


def difference(own: Mapping[str, str], others: Mapping[str, str], who: str) -> str | None:
    """What `who` has otherwise than node 0, in a sentence; None for nothing."""
    wrong = next((name for name in own if others.get(name) != own[name]), None)
    if wrong is None:
        return None
    said = str(others.get(wrong, "nothing"))[:_LONGEST]
    return f"{who} has {wrong} {said} and node 0 has {own[wrong]}; {_REMEDY.get(wrong, _OTHERWISE)}"


@functools.cache
def _sources(folder: Path) -> str:
    """A digest of all Python files in a folder and below it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:_SHORT]


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:_SHORT]


def _of_plugin(name: str) -> str:
    """Without the folder: it may lie elsewhere on another node."""
    if not name:
        return "none"
    found = plugins.file_of(name)
    content = hashlib.sha256(found.read_bytes()).hexdigest()[:_SHORT] if found else ""
    return f"{Path(name).name} {content}".strip()
