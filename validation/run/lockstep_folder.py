"""The folder in which a case in lockstep keeps what it goes on with if it is cut, and the key of what that depends on."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

from validation import checkout
from validation.case.case import Case
from validation.reference import store
from validation.reference.store import Reference
from validation.run import plugin as plugins


def lockstep_folder(case: Case, stored: Reference, plugin: str, state: str) -> tuple[Path, str] | None:
    """The folder of a case below `state`, and the key; None without `state`."""
    if not state:
        return None
    depends = [case.to_json(), store.key(case), stored.facts()["weights_digest"], plugin]
    digest = hashlib.sha256(json.dumps(depends).encode())
    for path in _sources(case, plugin):
        digest.update(path.name.encode() + path.read_bytes())
    key = digest.hexdigest()[:24]
    return Path(state) / key, key


def _sources(case: Case, plugin: str) -> Iterator[Path]:
    """The files whose code computes the candidate: ours, megatron-core's, the user's spec and plugin."""
    yield from sorted((Path(__file__).parents[1] / "candidate").glob("*.py"))
    core = checkout.core()
    if core is not None:
        yield from sorted(core.rglob("*.py"))
    module, _, function = case.implementation.partition(":")
    named = importlib.util.find_spec(module) if function else None
    if named is not None and named.origin is not None:
        yield Path(named.origin)
    if plugin and (file := plugins.file_of(plugin)) is not None:
        yield file
