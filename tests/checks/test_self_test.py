"""The self-test of a run: every planted defect is seen where it is, and a gate that does not see one is red."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ci import junit
from ci.reasons import Origin, of_suite
from tests.checks.conftest import LAYERS, ROOT, Output
from tests.checks.test_reported_checks import assert_reported, listed
from validation.faults.plan import PLANTED

KINDS = tuple(kind for kind in PLANTED if kind != "key choice")[:7]  # the others need a run that resumes or infers
FIRST = (
    "Layer 0 Core Attention Output",
    "Layer 0 Query after RoPE",
    "Layer 1 Router Output",
    "Layer 1 Routed Experts Output",
    "Layer 0 Attention Output",
    "Layer 1 Input Norm Weight Gradient",
    "Layer 0 Input Norm Output",
)
"""The check that each defect must make fail first."""
SUITE = "self-test-tiny-tp2-fp64-local-gloo"


@dataclass(frozen=True)
class Outputs:
    """What the commands left: of a sound gate, of one in front of a model that is wrong, of one that is wrong itself."""

    sound: Output
    model: Output
    gate: Output


@pytest.fixture(scope="module")
def outputs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """In CI, where nobody has to ask for a self-test."""
    texts, *results = (tmp_path_factory.mktemp(name) for name in ("texts", "sound", "model", "gate"))
    shared = ["run", "-v", "--layouts", "tp2", "--set", f"num_layers={LAYERS}"]
    wrong = ["--implementation", "tests.checks.broken_specs:reduction_lost"]
    own = (["--", "-k", "planted or ranks"], [*wrong, "--", "-k", "planted and lost"], ["--", "-k", "planted and not lost"])
    commands = [[*shared, "--results", str(folder), *words] for folder, words in zip(results, own, strict=True)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.checks.blind", str(texts)],
        cwd=ROOT,
        env={**os.environ, "PLUMBLINE_CACHE": str(cache), "CI": "true"},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=1800,
        check=True,
    )
    codes = json.loads(done.stdout)
    left = enumerate(zip(codes, results, strict=True))
    return Outputs(*(Output(code, (texts / f"{number}.txt").read_text(), folder) for number, (code, folder) in left))


def test_every_planted_defect_is_seen(outputs: Outputs) -> None:
    """By the one check that must fail first; none of its failures is one of the run."""
    found = outputs.sound
    assert found.code == 0, found.text
    section = found.text.partition("--- Self-Test ---\n")[2].splitlines()
    for line, group, first in zip(section, KINDS, FIRST, strict=False):
        assert re.fullmatch(
            rf"PASS: Planted defect seen: {group} - first failing check {first} \(relative \d\.\de[+-]\d\d\)", line
        )
    assert found.titles("FAIL") + found.titles("ERROR") == []
    assert "===== Overall result: PASS (8 checks, " in found.text


def test_the_self_test_stands_under_its_own_heading_after_the_cases(outputs: Outputs) -> None:
    text = outputs.sound.text
    heading = "===== self-test / tiny / fp64 / local / gloo: 7 planted defects =====\n--- Self-Test ---\n"
    assert text.index("Every rank finishes") < text.index(heading)


def test_the_self_test_has_a_file_of_its_own(outputs: Outputs) -> None:
    """With what was planted, where, and what came of it."""
    found = outputs.sound
    assert f"JUnit: {found.results / SUITE}.xml" in found.text
    suite = found.suite(SUITE)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("7", "0", "0")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [f"Planted defect seen: {group}" for group in KINDS]
    said = [{item.get("name"): item.get("value") for item in case.findall("properties/property")} for case in cases]
    assert [one["first"] for one in said] == list(FIRST)
    assert [one["layout"] for one in said] == ["single"] * 4 + ["tp2"] * 2 + ["single"]
    assert len(found.suite("tiny-tp2-fp64-local-gloo").findall("testcase")) == 1


def test_a_defect_that_changes_nothing_turns_the_run_red(outputs: Outputs) -> None:
    found = outputs.gate
    assert found.code == 1
    line = found.line("Planted defect seen: router bias")
    assert re.fullmatch(
        r"FAIL: Planted defect seen: router bias - not seen, no check fails \(.*\): the gate is blind to it", line
    )


def test_limits_that_are_eight_orders_too_wide_turn_the_run_red(outputs: Outputs) -> None:
    """Under 1e-2 gross faults are still seen, and a part in a million is not."""
    found = outputs.gate
    line = found.line("Planted defect seen: small error")
    assert line.startswith("FAIL: Planted defect seen: small error - not seen, no check fails (")


@pytest.mark.parametrize(
    ("group", "first", "wanted"),
    [
        pytest.param("rope", "Embedding Output", FIRST[1], id="a defect that is somewhere else"),
        pytest.param("attention scale", FIRST[4], FIRST[0], id="a check that lets everything pass"),
    ],
)
def test_a_defect_that_another_check_sees_first_is_not_seen(outputs: Outputs, group: str, first: str, wanted: str) -> None:
    """Where everything fails, nothing has been found."""
    line = outputs.gate.line(f"Planted defect seen: {group}")
    reason = f"not seen where it is, the first failing check is {first} and not {wanted}: the gate is blind to it"
    assert line == f"FAIL: Planted defect seen: {group} - {reason}"


def test_where_the_model_is_wrong_already_one_check_says_so(outputs: Outputs) -> None:
    """No case of the run itself was selected, so the first check names the case that fails; the gate is not called blind."""
    first, second = (outputs.model.line(f"Planted defect seen: {group}") for group in KINDS[4:6])
    said = "the same case without it (tiny / tp2 / fp64 / tests.checks.broken_specs:reduction_lost / gloo: 2 ranks) fails at "
    assert first == f"FAIL: Planted defect seen: {KINDS[4]} - {said}{FIRST[4]}"
    assert second == f"NOT EVALUATED: Planted defect seen: {KINDS[5]} - {said}{FIRST[4]}"
    assert "===== Overall result: FAIL (2 checks, 1 fail, 1 not evaluated, " in outputs.model.text
    assert outputs.model.code == 1


def test_a_defect_that_breaks_its_ranks_is_an_error(outputs: Outputs) -> None:
    """Nothing was decided; the stack shows where."""
    found = outputs.gate
    line = found.line("Planted defect seen: expert order")
    assert line == (
        "ERROR: Planted defect seen: expert order - rank 0 raised validation.run.plugin.PluginBroke: "
        "plugin tests.checks.blind:Raises: its wrapped raised ZeroDivisionError('in the planted defect')"
    )
    assert re.search(r'blind\.py", line \d+, in wrapped', found.text)


def test_what_is_not_seen_counts(outputs: Outputs) -> None:
    """In the overall result and in the file."""
    found = outputs.gate
    assert "===== Overall result: FAIL (5 checks, 1 error, 4 fail, " in found.text
    suite = found.suite(SUITE)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("5", "4", "1")


def test_nothing_is_planted_unless_it_is_asked_for(sound: Output) -> None:
    """Outside of CI."""
    assert "self-test" not in sound.text.lower()
    assert not list(sound.results.glob("self-test*"))


def test_the_self_test_reports_what_its_manifest_names(outputs: Outputs, tmp_path: Path) -> None:
    words = ["--layouts", "tp2", "--set", f"num_layers={LAYERS}", "--self-test"]
    found = listed(tmp_path, *words)
    assert len(found) == 2
    assert_reported(found[f"{SUITE}.xml"], outputs.sound.results)


def test_a_model_that_is_wrong_is_not_green_by_a_selection(outputs: Outputs, tmp_path: Path) -> None:
    """Its run has no check that fails of its own case, and lacks the others: the run says it, and the gate refuses it."""
    words = ["--layouts", "tp2", "--set", f"num_layers={LAYERS}", "--self-test"]
    expected = listed(tmp_path, *words, "--implementation", "tests.checks.broken_specs:reduction_lost")
    whole = sum(len(suite.checks) for suite in expected.values())
    assert outputs.model.text.rstrip().splitlines()[-1] == (
        f"Left out: {whole - 2} of {whole} checks; a gate takes no results of such a run"
    )
    for output, name in ((outputs.sound, "tiny-tp2-fp64-local-gloo"), (outputs.gate, SUITE)):
        suite = junit.read(output.results / f"{name}.xml")
        reasons = list(of_suite(listed(tmp_path, *words)[f"{name}.xml"], suite, Origin(suite.properties["commit"])))
        assert any(why.startswith(f"made without {suite.properties['left_out']} of its checks") for why in reasons)
