"""`python -m validation faults`: one fault of each mechanism, as a user runs them; the whole catalogue is nox -s faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import junit
from tests.checks.conftest import warm

FIRST = {
    "A02": "Layer 0 Core Attention Output",
    "W01": "Layer 0 MLP Gate Weight",
    "R18": "Layer 1 Router Weight Gradient",
    "G13": "Step 1 Gradient Norm",
    "D08": "Layer 0 Query after RoPE",
}
"""A function replaced, weights loaded wrongly, a mark taken away, an optimizer's step, a lower precision."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """Exit code, output, results."""
    results = tmp_path_factory.mktemp("results")
    words = [word for name in FIRST for word in ("--only", name)]
    done = warm(["faults", *words, "--results", str(results)], tmp_path_factory.mktemp("cache"))
    assert done.stderr == ""
    return done.returncode, done.stdout, results


def test_each_is_seen_where_it_is(ran: tuple[int, str, Path]) -> None:
    code, text, results = ran
    assert code == 0, text
    suites = [junit.read(path) for path in results.glob("*.xml")]
    found = {check.properties["fault"]: check for suite in suites for check in suite.checks if "fault" in check.properties}
    assert {name: check.properties["first"] for name, check in found.items()} == FIRST
    assert {check.properties["localised"] for check in found.values()} == {"true"}
    assert all(int(check.properties["changed"]) > 0 for check in found.values())


def test_cases_without_a_fault_stand_beside_them(ran: tuple[int, str, Path]) -> None:
    """One for each that a fault is put into."""
    clean = junit.read(ran[2] / "faults-clean.xml").checks
    assert len(clean) == 4
    assert {check.status for check in clean} == {"pass"}


def test_the_summary_counts(ran: tuple[int, str, Path]) -> None:
    """A check at the end can be told by: what peers see, and how many were caught."""
    assert "===== Scorecard: PASS (5 faults, 5 caught, 5 localised, 0 false alarms in 4 cases, " in ran[1]
    assert "Peers' rules on the same runs: max diff < 1e-3 3, " in ran[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "Z99"], "error: --only Z99: no fault of the catalogue; `python -m validation faults --list` lists them\n"),
        (["--only", ""], "error: --only is empty: give it a value, or leave it out\n"),
        (["--jobs", "0"], "error: --jobs is 1 or more, and --timeout a number of seconds greater than 0\n"),
    ],
)
def test_wrong_usage_is_one_sentence(words: list[str], says: str, tmp_path: Path) -> None:
    done = warm(["faults", *words, "--results", str(tmp_path)], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", says)


def test_the_catalogue_can_be_listed(tmp_path: Path) -> None:
    done = warm(["faults", "--list", "--only", "a0"], tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("A01  attention: the softmax is scaled by yarn's mscale in place of mscale_all_dim\nA02  ")
