"""What the self-test makes of a planted case are the checks that the gate makes of every case."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.checks.conftest import ROOT
from validation.checks import verdicts
from validation.run.options import parsed


@pytest.mark.parametrize("words", [("--steps", "0"), ("--layouts", "pp2+mtp")], ids=" ".join)
def test_none_of_the_checks_that_pytest_collects_is_missing(words: tuple[str, ...]) -> None:
    """Counted: each module has as many."""
    (case,) = parsed(words).cases
    found: dict[str, int] = {}
    for check in verdicts._checks(case):
        module = check.__module__.rpartition(".")[2]
        found[module] = found.get(module, 0) + len(verdicts._members(check, case))
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "validation/checks", *words]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=True).stdout
    collected = {name: int(count) for name, count in re.findall(r"^validation/checks/(\w+)\.py: (\d+)$", told, re.M)}
    assert {name: count for name, count in found.items() if count} == collected
    assert sum(collected.values()) > 250


def test_a_check_that_needs_pytest_is_left_to_it() -> None:
    """A user's own may ask for fixtures, which only pytest has."""

    def own(parity: object, tmp_path: object) -> None: ...

    (case,) = parsed([]).cases
    assert verdicts._members(own, case) == []
