"""The catalogue beside known upstream bugs: every bug of this release can be made to show, and hides nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from ci import junit
from ci.releases import OLDER
from tests.checks.conftest import warm
from validation.case import preflight
from validation.case.errors import UsageError
from validation.faults import catalogue
from validation.machine import version
from validation.run.known import known_bugs, table
from validation.scorecard import command
from validation.scorecard.behind import ACTIVATED, DUE, behind

FAULTS = catalogue.faults(OLDER.megatron_core)

MEASURED_WITH = OLDER.megatron_core
"""The megatron-core of the table in docs/scorecard.md."""


def test_every_bug_of_the_release_that_is_measured_has_faults_beside_it() -> None:
    """A bug that nobody tries the catalogue beside could hide anything again."""
    of_release = [bug for bug in table() if not bug.instead and SpecifierSet(bug.megatron_core).contains(MEASURED_WITH)]
    live = {bug.id for bug in of_release if not all(name.startswith("te") for name in bug.implementations)}
    assert live == {*ACTIVATED, *DUE}
    if version("megatron-core") == MEASURED_WITH:
        assert {trial.bug for trial in behind(FAULTS, (*ACTIVATED, *DUE))} == live


@pytest.mark.parametrize("bug", ACTIVATED)
def test_what_is_tried_can_run_and_has_the_bug(bug: str) -> None:
    for trial in behind(FAULTS, [bug]):
        assert bug in {one.id for one in known_bugs(trial.case)}
        preflight.check(trial.case, max_ranks=8, gpus=0, memory=None)


def test_a_fault_is_seen_first_where_it_is_beside_a_bug(tmp_path: Path) -> None:
    """A gradient that is not reduced, behind column-parallel down-projections, whose bug may spoil that very gradient."""
    done = warm(["faults", "--behind", "shared-rope-key-not-reduced", "--only", "T04", "--results", str(tmp_path)], tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "(1 fault, 1 caught, 1 localised, 0 false alarms in 1 case, " in done.stdout
    (check,) = junit.read(tmp_path / "faults-shared-rope-key-not-reduced.xml").checks
    assert check.name == "Fault seen: T04 in tp2 beside shared-rope-key-not-reduced"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--behind", "nothing"],
            "error: --behind nothing: no bug that a case can be given here; those are latent",
        ),
        (
            ["--behind", "tied-output-weight-unused", "--only", "W"],
            "error: no fault that --only names can be put in be",
        ),
    ],
)
def test_wrong_usage_is_one_sentence(words: list[str], says: str, tmp_path: Path) -> None:
    done = warm(["faults", *words, "--results", str(tmp_path)], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(says)
    assert done.stderr.count("\n") == 1


def test_a_bug_that_is_due_is_tried_and_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DUE, "a-bug", lambda case: None)
    parser = argparse.ArgumentParser()
    command.add_options(parser.add_argument)
    with pytest.raises(UsageError, match="--write writes what is tried beside latent-norm-epsilon, "):
        command.run(parser.parse_args(["--behind", "a-bug", "--write"]), "faults")
