"""The manifest: every check that a set of cases must report, as JSON. The gate holds results against it."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
"""Counts up when what an older gate would read has changed."""
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}\.xml")
_SESSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,100}|")


class UnreadableManifest(Exception):
    """A manifest that is none, with the reason."""


@dataclass(frozen=True)
class Expected:
    """One testsuite that must be there.

    `file` is a name without folders. `properties` must be the suite's to the letter, `minimum` are the oldest versions of
    libraries that it may be made with, `ranks` all that must take part (0: the self-test, whose cases have their own).
    `checks` are pairs of classname and name.
    """

    file: str
    name: str
    ranks: int
    properties: Mapping[str, str]
    minimum: Mapping[str, str]
    checks: tuple[tuple[str, str], ...]
    session: str = ""


@dataclass(frozen=True)
class Manifest:
    """What is wanted, and of which commit; empty where it is not known."""

    suites: tuple[Expected, ...]
    commit: str = ""
    dirty: str = field(default="unknown")


def save(path: Path, manifest: Manifest) -> None:
    """Write it in one step."""
    suites = [_as_json(suite) for suite in manifest.suites]
    content = {"format": FORMAT, "commit": manifest.commit, "dirty": manifest.dirty, "suites": suites}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def _as_json(suite: Expected) -> dict[str, Any]:
    by_class: dict[str, list[str]] = defaultdict(list)
    for classname, name in suite.checks:
        by_class[classname].append(name)
    return {
        "session": suite.session,
        "file": suite.file,
        "name": suite.name,
        "ranks": suite.ranks,
        "properties": dict(suite.properties),
        "minimum": dict(suite.minimum),
        "checks": by_class,
    }


def load(path: Path) -> Manifest:
    """The manifest in a file. Raises UnreadableManifest."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableManifest(f"{path}: {error.strerror}; write it with python -m ci manifest") from None
    except (ValueError, RecursionError) as error:
        raise UnreadableManifest(f"{path}: not JSON ({error}); write it with python -m ci manifest") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UnreadableManifest(f"{path}: not a manifest of format {FORMAT}; write it with this tree's python -m ci manifest")
    try:
        suites = tuple(_suite(entry) for entry in content["suites"])
        return Manifest(suites, _text(content["commit"]), _text(content["dirty"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableManifest(f"{path}: {type(error).__name__} {error}; write it with python -m ci manifest") from None


def _suite(entry: dict[str, Any]) -> Expected:
    if not (_FILE.fullmatch(entry["file"]) and _SESSION.fullmatch(entry["session"])):
        raise ValueError(f"{entry['session']!r} and {entry['file']!r} are no names of a session and a file")
    if type(entry["ranks"]) is not int or entry["ranks"] < 0:
        raise ValueError(f"{entry['ranks']!r} is no number of ranks")
    return Expected(
        file=entry["file"],
        name=_text(entry["name"]),
        ranks=entry["ranks"],
        properties={_text(key): _text(value) for key, value in entry["properties"].items()},
        minimum={_text(key): _text(value) for key, value in entry["minimum"].items()},
        checks=tuple((_text(owner), _text(name)) for owner, names in entry["checks"].items() for name in _list(names)),
        session=entry["session"],
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value
