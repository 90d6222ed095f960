"""The manifest: every check that a set of cases must report, as JSON. The gate holds results against it."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from validation.case import tree, writing

FORMAT = 8
"""Counts up when what an older gate would read has changed."""
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,200}\.xml")
_SESSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,100}|")


class UnreadableManifest(Exception):
    """A manifest that is none, with the reason."""


Name = tuple[str, str]
"""A check's component and name."""


@dataclass(frozen=True)
class Excuse:
    """A known upstream bug that may show in a testsuite: `what` reports call it, with which versions, in which checks.

    `at_most` is the largest relative error that it makes there, infinite for a bug that leaves any number and none at all.
    """

    what: str
    megatron_core: str
    checks: frozenset[Name]
    at_most: float


@dataclass(frozen=True)
class Tensor:
    """What a check compares: how many elements the tensor has, and the largest relative error that may pass.

    0 lets nothing pass but equality. A limit that only the reference tells is below the one that decides nothing, which
    stands here.
    """

    elements: int
    limit: float


@dataclass(frozen=True)
class Expected:
    """One testsuite that must be there.

    `file` is a name without folders. `properties` must be the suite's to the letter, `requires` are the versions of libraries
    that it may be made with, as pip writes them (a marker names the Pythons that one is for), `ranks` all that must take part
    (0: the self-test, whose cases have their own). `tensors` are the checks that compare one, and what they compare;
    `near_ties` those of them that may pass though they are not equal: a router's choice, in a precision where rounding may
    decide it. `covers` has the settings of the recipe, as `NAME=VALUE`, of which it must say what became of them,
    and whether the case sets each.
    """

    file: str
    name: str
    ranks: int
    properties: Mapping[str, str]
    requires: tuple[str, ...]
    checks: tuple[Name, ...]
    session: str = ""
    tensors: Mapping[Name, Tensor] = field(default_factory=dict)
    excuses: tuple[Excuse, ...] = ()
    near_ties: frozenset[Name] = frozenset()
    covers: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What is wanted, and of which commit; empty where it is not known.

    `self_tests` names the file of the self-test of each session that tests itself; the testsuite must be there. `coverage` has
    the share of a recipe's settings that must be equal, for each session that asks for one.
    """

    suites: tuple[Expected, ...]
    commit: str = ""
    dirty: str = field(default="unknown")
    self_tests: Mapping[str, str] = field(default_factory=dict)
    coverage: Mapping[str, float] = field(default_factory=dict)


def save(path: Path, manifest: Manifest) -> None:
    """Write it in one step. Raises OSError."""
    suites = [_as_json(suite) for suite in manifest.suites]
    said = {"commit": manifest.commit, "dirty": manifest.dirty, "self_tests": dict(manifest.self_tests)}
    content = {"format": FORMAT, **said, "coverage": dict(manifest.coverage), "suites": suites}
    writing.write(path, json.dumps(content, indent=1) + "\n")


def _as_json(suite: Expected) -> dict[str, Any]:
    excuses = [
        {
            "what": one.what,
            "megatron_core": one.megatron_core,
            "checks": _by_component(sorted(one.checks)),
            "at_most": one.at_most if one.at_most < math.inf else None,
        }
        for one in suite.excuses
    ]
    return {
        "session": suite.session,
        "file": suite.file,
        "name": suite.name,
        "ranks": suite.ranks,
        "properties": dict(suite.properties),
        "requires": list(suite.requires),
        "checks": _by_component(suite.checks),
        "tensors": _tensors_by_component(suite.tensors),
        "excuses": excuses,
        "near_ties": _by_component(sorted(suite.near_ties)),
        "covers": dict(suite.covers),
    }


def _by_component(checks: Iterable[Name]) -> dict[str, list[str]]:
    by_component: dict[str, list[str]] = defaultdict(list)
    for component, name in checks:
        by_component[component].append(name)
    return by_component


def _tensors_by_component(tensors: Mapping[Name, Tensor]) -> dict[str, dict[str, dict[str, Any]]]:
    by_component: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for (component, name), tensor in tensors.items():
        by_component[component][name] = vars(tensor)
    return by_component


def load(path: Path) -> Manifest:
    """The manifest in a file. Raises UnreadableManifest."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableManifest(f"{path}: {error.strerror}; write it with {tree.CI} manifest") from None
    except (ValueError, RecursionError) as error:
        raise UnreadableManifest(f"{path}: not JSON ({error}); write it with {tree.CI} manifest") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UnreadableManifest(f"{path}: not a manifest of format {FORMAT}; write it with this tree's {tree.CI} manifest")
    try:
        suites = tuple(_suite(entry) for entry in content["suites"])
        self_tests = {_text(session): _text(file) for session, file in content["self_tests"].items()}
        coverage = {_text(session): _share(value) for session, value in content["coverage"].items()}
        return Manifest(suites, _text(content["commit"]), _text(content["dirty"]), self_tests, coverage)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableManifest(f"{path}: {type(error).__name__} {error}; write it with {tree.CI} manifest") from None


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
        requires=tuple(str(Requirement(_text(line))) for line in _list(entry["requires"])),
        checks=_checks(entry["checks"]),
        session=entry["session"],
        tensors={
            (_text(owner), _text(name)): Tensor(_elements(one["elements"]), _limit(one["limit"]))
            for owner, named in entry["tensors"].items()
            for name, one in named.items()
        },
        excuses=tuple(
            Excuse(_text(one["what"]), _text(one["megatron_core"]), frozenset(_checks(one["checks"])), _largest(one["at_most"]))
            for one in _list(entry["excuses"])
        ),
        near_ties=frozenset(_checks(entry["near_ties"])),
        covers={_text(setting): _yes_or_no(value) for setting, value in entry["covers"].items()},
    )


def _checks(by_component: dict[str, Any]) -> tuple[Name, ...]:
    return tuple((_text(owner), _text(name)) for owner, names in by_component.items() for name in _list(names))


def _elements(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is no number of elements")
    return value


def _limit(value: object) -> float:
    if not isinstance(value, float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no limit of a relative error")
    return value


def _largest(value: object) -> float:
    """Of a bug; null is infinite."""
    if value is None:
        return math.inf
    if not isinstance(value, float | int) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is no largest error of a bug")
    return float(value)


def _share(value: object) -> float:
    if not isinstance(value, float | int) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no share from 0 to 1")
    return float(value)


def _yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value
