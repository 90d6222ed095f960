"""Results of sessions that never ran: what a green run of each leaves, by the manifest, with fewer checks."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import ci.cli
import ci.manifest
from ci import junit
from ci.expected import Expected, Manifest, Tensor, load, save
from ci.junit import Check, Suite
from ci.table import rows
from tests.checks.commands import WARM
from validation.case import covered
from validation.case.covered import Word

ROOT = Path(__file__).parents[2]
COMMIT = "c0ffee" + "0" * 34
MEGATRON = "decade" + "0" * 34
PYTHON = "3.12"
MOST = 40
"""Checks of a testsuite that are kept: twenty scenarios read all of them, several times each."""
CALLED = ("cpu_tp2",)
"""Sessions of callers that are as in the table."""
RECIPES = ROOT / "tests" / "recipe" / "known"
"""What the repository of a team that compares a recipe holds."""
RECIPE = {"PLUMBLINE_RECIPE": str(RECIPES / "slime-moonlight.txt"), "PLUMBLINE_COVERAGE": "0.5"}
CALLS = {
    **{kind: {"PLUMBLINE_LAYOUTS": "tp2", "PLUMBLINE_PRECISION": kind} for kind in ("fp64", "bf16")},
    "recipe": RECIPE,
}
"""Calls of the workflow by their names, with what their inputs say. Each has one session."""
NEAR = "Layer 0 Attention Output"
_EARLIER = "2025-12-30T00:00:00.000+00:00 b"
PLANTED = {
    "layout": "single",
    "first": NEAR,
    "max_diff": "0.7",
    "avg_diff": "0.1",
    "rel_error": "0.2",
    "tolerance": "1e-10",
    "ranks": "0",
    "worst_rank": "0",
    "elements": "2048",
}


def everything(path: Path) -> Manifest:
    """What `python -m ci manifest` writes of every session that some event or a caller runs; each testsuite's first checks.

    The checks are listed by the process of all tests: one for each session takes a core a minute. `of_call` has them.
    """
    asked = [word for row in rows() if row.when or row.session in CALLED for word in ("--session", row.session)]
    one_at_a_time = threading.Lock()

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "validation"]
        with one_at_a_time:
            return WARM.run(command[3:], path.with_name("cache"))

    with mock.patch.object(ci.manifest, "subprocess", SimpleNamespace(run=run)), redirect_stdout(io.StringIO()):
        assert ci.cli.main(["manifest", *asked, "--output", str(path)]) == 0
    return _narrowed(path)


def of_call(path: Path, name: str) -> Manifest:
    """The same for a call of this name."""
    session = "cpu_recipe" if CALLS[name] is RECIPE else CALLED[0]
    return listed(path, ["--session", session], os.environ | CALLS[name])


def listed(path: Path, asked: list[str], environment: Mapping[str, str]) -> Manifest:
    """What `python -m ci manifest` writes of what is asked; each testsuite's first checks, of the commit of all scenarios."""
    command = [sys.executable, "-m", "ci", "manifest", *asked, "--output", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
    return _narrowed(path)


def _narrowed(path: Path) -> Manifest:
    whole = load(path)
    suites = tuple(replace(suite, checks=_first(suite.checks)) for suite in whole.suites)
    save(path, replace(whole, suites=suites, commit=COMMIT, dirty="false"))
    return load(path)


def _first(checks: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple(check for number, check in enumerate(checks) if number < MOST or check[1] == NEAR)


def green(manifest: Manifest, folder: Path, call: str = "") -> None:
    """Every session's results, each in a folder of its own."""
    for expected in manifest.suites:
        junit.write(folder / f"{call and f'{call}.'}{expected.session}" / expected.file, suite(expected))


def suite(expected: Expected) -> Suite:
    """A testsuite in which all is right."""
    checks = tuple(Check(*name, "pass", properties=_numbers(expected, name)) for name in expected.checks)
    places = {f"rank_{rank}_place": "tp 0" for rank in range(expected.ranks)}
    versions = {one.name: _oldest(one.specifier) for one in map(Requirement, expected.requires) if _holds(one)}
    run = f"2026-01-01T00:00:00.000+00:00 {hashlib.sha256(expected.session.encode()).hexdigest()[:16]}"
    origin = {"python": f"{PYTHON}.1", "commit": COMMIT, "dirty": "false", junit.RUN: run}
    properties = {**expected.properties, **versions, **places, **origin, **_covered(expected)}
    return Suite(expected.file.removesuffix(".xml"), checks, properties, seconds=1.0, timestamp="2026-01-01T00:00:00")


def _numbers(expected: Expected, name: tuple[str, str]) -> dict[str, str]:
    """Those of a tensor that is equal, if there is one, or that every rank holds; of the self-test those of a defect."""
    if not expected.ranks:
        return PLANTED
    tensor = expected.tensors.get(name, Tensor(1, 1e-10))
    ranks = ",".join(str(rank) for rank in range(expected.ranks))
    places = {"ranks": ranks, "worst_rank": "0", "elements": str(tensor.elements)}
    error = "0.0" if tensor.limit == 0 else "1e-15"
    return {"max_diff": error, "avg_diff": error, "rel_error": error, "tolerance": str(min(tensor.limit, 1e-10)), **places}


def _covered(expected: Expected) -> dict[str, str]:
    """What became of a recipe's settings: those that the case sets are equal."""
    if covered.RECIPE not in expected.properties:
        return {}
    left = Word(covered.NOT_EXERCISED, "no line runs otherwise")
    words = {setting: Word(covered.EQUAL) if set_ else left for setting, set_ in expected.covers.items()}
    return covered.properties(expected.properties[covered.RECIPE], words)


def _holds(wanted: Requirement) -> bool:
    return wanted.marker is None or wanted.marker.evaluate({"python_version": PYTHON})


def _oldest(wanted: SpecifierSet) -> str:
    return next(one.version for one in wanted if one.operator in (">=", "=="))


def failing(path: Path) -> None:
    """One check of a file is wrong."""
    _change(path, "fail", "7e-1", "FAIL: relative error 7e-01 > 1e-10")


def nearer(path: Path) -> None:
    """One check of a file is half as far from right as it may be, where a green run's is a hundred thousandth."""
    _change(path, "pass", "5e-11")


def exercising_nothing(path: Path) -> None:
    """No setting of the recipe was equal, though every check passed."""
    found = junit.read(path)
    if covered.RECIPE in found.properties:
        words = dict.fromkeys(covered.read(found.properties), Word(covered.NOT_EXERCISED, "no line runs otherwise"))
        said = covered.properties(found.properties[covered.RECIPE], words)
        junit.write(path, replace(found, properties={**found.properties, **said}))


def of_an_earlier_run(path: Path) -> None:
    """The self-test of a session is that of the run before."""
    found = junit.read(path)
    if path.name.startswith("self-test-"):
        junit.write(path, replace(found, properties={**found.properties, junit.RUN: "2025-12-31T00:00:00.000+00:00 a"}))


def leftovers(folder: Path, session: Path) -> None:
    """What an earlier run of a session has left that was red: its results, its attempts, and a report that was moved."""
    for place in (folder, folder / "attempts" / "1", folder / "before"):
        for path in session.glob("*.xml"):
            found = junit.read(path)
            junit.write(place / path.name, replace(found, properties={**found.properties, junit.RUN: _EARLIER}))
            failing(place / path.name)


def of_megatron(path: Path) -> None:
    """Made with a checkout of Megatron, as --megatron-path has it said."""
    found = junit.read(path)
    said = {"megatron-path": "megatron", "megatron-commit": MEGATRON}
    junit.write(path, replace(found, properties={**found.properties, **said}))


def _change(path: Path, status: str, error: str, message: str = "") -> None:
    found = junit.read(path)
    changed = [
        replace(check, status=status, message=message, properties={**check.properties, "rel_error": error})
        if check.name == NEAR
        else check
        for check in found.checks
    ]
    junit.write(path, replace(found, checks=tuple(changed)))
