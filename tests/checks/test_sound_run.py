"""A model that is right: what a user sees, and what the files say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.checks.conftest import Output

CASES = ("tiny-single-fp64-local-gloo", "tiny-tp2-fp64-local-gloo")
NUMBER = r"(?:\d+\.\d{6}|\d\.\d\de[+-]\d\d)"
SECTIONS = ["Run", "Weights", "Multi-Latent Attention (MLA)", "Router", "Mixture of Experts (MoE)", "Final Output", "Gradients"]


def test_everything_passes(sound: Output) -> None:
    """Exit code 0, and the last line of all says how many checks that were."""
    assert sound.code == 0
    passed = sound.titles("PASS")
    assert sound.titles("FAIL") + sound.titles("ERROR") == []
    (said,) = re.findall(r"^===== Overall result: PASS \(2 cases, (\d+) checks, \d+\.\d s\) =====$", sound.text, re.M)
    assert int(said) == len(passed) > 400


def test_each_case_has_its_heading(sound: Output) -> None:
    """In the order of the layouts, with everything that tells one from another."""
    headings = re.findall(r"^===== (tiny / .+) =====$", sound.text, re.M)
    assert headings == ["tiny / single / fp64 / local / gloo: 1 rank", "tiny / tp2 / fp64 / local / gloo: 2 ranks"]


def test_a_case_is_told_section_by_section(sound: Output) -> None:
    """Forward before backward, each heading once for each case."""
    headings = re.findall(r"^--- (.+) ---$", sound.text, re.M)
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS * 2
    assert headings == headings[: len(headings) // 2] * 2


@pytest.mark.parametrize(
    "title",
    ["Layer 0 Attention Output", "Layer 1 Router Scores", "Layer 3 MoE Output", "Logits", "Embedding Weight Gradient"],
)
def test_a_check_is_one_line_with_max_and_average(sound: Output, title: str) -> None:
    """The line that users know from other tools, once for each case."""
    pattern = rf"^PASS: {title} - Max diff: {NUMBER}, Avg diff: {NUMBER} \(relative \d\.\de-1\d\)$"
    assert len(re.findall(pattern, sound.text, re.M)) == 2


def test_the_router_counts_routes(sound: Output) -> None:
    """4 sequences of 48 tokens, 4 experts each: none of 768 goes elsewhere."""
    lines = re.findall(r"^PASS: Layer 2 Router Output - .*, (\d+ of \d+) routes differ$", sound.text, re.M)
    assert lines == ["0 of 768"] * 2


@pytest.mark.parametrize("case", CASES)
def test_each_case_leaves_a_file(sound: Output, case: str) -> None:
    """As many testcases as lines, none failed, and where it was made: the command, the layout, the versions."""
    assert f"JUnit: {sound.results}/{case}.xml\n" in sound.text
    suite = sound.suite(case)
    assert suite.get("name") == case
    assert int(suite.get("tests", 0)) == len(suite.findall("testcase")) == len(sound.titles("PASS")) // 2
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    facts = {item.get("name"): item.get("value") for item in suite.findall("properties/property")}
    assert facts["layout"] == case.split("-")[1]
    assert facts["command"] == f"python -m validation run -v --layouts single,tp2 --results {sound.results}"
    assert {"seed", "ranks", "torch", "megatron-core", "transformers", "weights_digest", "cpu", "driver"} <= set(facts)


@pytest.mark.parametrize("case", CASES)
def test_every_check_of_a_file_has_a_name_of_its_own(sound: Output, case: str) -> None:
    """Names are what the gate and comparisons over time go by."""
    names = [(found.get("classname"), found.get("name")) for found in sound.suite(case).findall("testcase")]
    assert len(names) == len(set(names))


def test_a_passing_check_carries_its_numbers(sound: Output) -> None:
    """As properties, and in system-out for viewers that ignore these."""
    (check,) = sound.suite(CASES[1]).findall("testcase[@name='Layer 0 Attention Output']")
    numbers = {item.get("name"): item.get("value") for item in check.findall("properties/property")}
    assert 0 < float(numbers["max_diff"] or "nan") < 1e-12
    assert (numbers["ranks"], numbers["elements"], numbers["tolerance"]) == ("0,1", str(4 * 48 * 64), "1e-10")
    said = check.findtext("system-out") or ""
    assert said.startswith("PASS: Layer 0 Attention Output - Max diff: ")
    assert f"max_diff: {numbers['max_diff']}" in said
