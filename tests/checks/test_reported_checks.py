"""What a run reports is what the manifest said before: the same testsuites, the same names."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ci import junit
from ci.expected import Expected, load
from ci.reasons import Origin, of_suite
from tests.checks.conftest import BROKEN, LAYERS, Output, warm
from validation.case.plural import many


def listed(folder: Path, *words: str) -> dict[str, Expected]:
    """The manifest of a command, by file."""
    path = folder / "manifest.json"
    done = warm(["run", *words, "--manifest", str(path)], folder / "cache")
    said = [
        line for line in done.stdout.splitlines() if line and not line.endswith("s: listing the checks ...")
    ]  # on a slow machine
    suites = load(path).suites
    counted = f"{many(len(suites), 'testsuite')}, {sum(len(suite.checks) for suite in suites)} checks"
    assert (done.returncode, said, done.stderr) == (0, [f"{path}: {counted}"], "")
    assert not (folder / "results").exists()
    return {suite.file: suite for suite in suites}


def assert_reported(expected: Expected, results: Path) -> None:
    """The testsuite has exactly the checks that were expected, and says of itself what was demanded."""
    suite = junit.read(results / expected.file)
    assert suite.name == expected.name
    assert sorted((check.component, check.name) for check in suite.checks) == sorted(expected.checks)
    assert {name: suite.properties.get(name) for name in expected.properties} == dict(expected.properties)
    assert {Requirement(line).name for line in expected.requires} <= set(suite.properties)


def test_a_run_reports_exactly_what_its_manifest_names(sound: Output, tmp_path: Path) -> None:
    found = listed(tmp_path, "--layouts", "single,tp2")
    assert set(found) == {path.name for path in sound.results.iterdir()}
    for expected in found.values():
        assert_reported(expected, sound.results)
        suite = junit.read(sound.results / expected.file)
        assert list(of_suite(expected, suite, Origin(suite.properties["commit"], dirty_allowed=True))) == []


def test_a_known_bug_is_excused_where_it_shows_and_nowhere_else(tmp_path: Path) -> None:
    """The stock spec's gradients of the shared rotary key; the gate takes them for known, and no other check of the suite."""
    words = ["--set", f"num_layers={LAYERS}", "--layouts", "tp2", "--implementation", "local-stock"]
    (expected,) = listed(tmp_path, *words).values()
    (bug,) = (bug for bug in expected.excuses if "shared rotary key" in bug.what)
    assert ("gradients", "Layer 0 KV Down Projection Weight Gradient") in bug.checks
    assert not {name for _, name in bug.checks} & {"Layer 0 Attention Output", "Every rank finishes"}


@pytest.mark.parametrize("name", ["raises", "reduction_lost"])
def test_a_run_that_breaks_or_fails_reports_under_the_same_names(name: str, broken: dict[str, Output], tmp_path: Path) -> None:
    """Names do not depend on what comes out."""
    words = ["--set", f"num_layers={LAYERS}", "--layouts", "tp2", "--implementation", f"{BROKEN}:{name}"]
    (expected,) = listed(tmp_path, *words).values()
    assert_reported(expected, broken[name].results)


def test_a_broken_run_says_the_code_that_it_ended_with(broken: dict[str, Output]) -> None:
    """The gate takes its errors for the infrastructure's only where it says so."""
    for name, said in (("raises", "1"), ("reduction_lost", None)):
        suite = junit.read(broken[name].results / f"tiny-tp2-fp64-{BROKEN}.{name}-gloo.xml")
        assert suite.properties.get("broken") == said


def test_results_say_which_commit_made_them(sound: Output) -> None:
    from ci import commit

    properties = junit.read(sound.results / "tiny-tp2-fp64-local-gloo.xml").properties
    assert {name: properties.get(name) for name in commit.facts()} == commit.facts()


def test_a_selection_of_nothing_is_wrong_usage(tmp_path: Path) -> None:
    done = warm(["run", "--manifest", str(tmp_path / "m.json"), "--", "-k", "nonsense"], tmp_path)
    assert done.returncode == 2
    assert "no check was selected" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
