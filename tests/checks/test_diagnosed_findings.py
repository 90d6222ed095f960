"""What a run has found: the terminal and the JSON document diagnose what stands in the files, no more and no less."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator

from ci.diagnosis import diagnose
from ci.junit import Check
from validation.case.document import Document
from validation.checks.conclusion import Conclusion
from validation.checks.diagnosed import Went, diagnosed, diagnosis, suites
from validation.checks.findings import Findings
from validation.run.command_line import ALL
from validation.run.options import Settings, parsed

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "tests" / "recipe" / "known"
SCHEMA = Draft202012Validator(json.loads((ROOT / "docs" / "json.schema.json").read_text(encoding="utf-8")))
GIVEN = parsed(["--layouts", "single,tp2", "--plugin", "my.patch", "--set", "num_hidden_layers=2"])
CASES = GIVEN.cases
SINGLE, TP2 = (case.name for case in CASES)
WRONG = Check("mla", "Layer 0 Attention Output", "fail", properties={"rel_error": "0.7", "tolerance": "1e-10"}, failure="limit")
ELSEWHERE = Check("mla", "Layer 1 Attention Output", "pass", properties={"rel_error": "1e-15", "tolerance": "1e-10"})


def test_a_case_that_left_the_failing_check_out_is_no_evidence() -> None:
    """As after --last-failed: what one case did not check says nothing of the layout of the other."""
    checks = {SINGLE: [ELSEWHERE], TP2: [WRONG]}
    (whole, *_) = diagnosed(CASES, checks, {}, GIVEN)
    assert "(tp2) and none without" in whole
    (narrowed, *_) = diagnosed(CASES, checks, {SINGLE: {"left_out": "655"}, TP2: {"left_out": "655"}}, GIVEN)
    assert "none without" not in narrowed


@pytest.mark.parametrize(("precision", "decides"), [("fp64", "single"), ("bf16", "tp2 --precision fp64")])
def test_the_command_of_the_case_that_decides_is_the_runs_own(precision: str, decides: str) -> None:
    """With its model and its plugin, and another layout or precision."""
    given = parsed(["--layouts", "tp2", "--plugin", "my.patch", "--set", "num_hidden_layers=2", "--precision", precision])
    close = replace(WRONG, properties={**WRONG.properties, "ratio": "3.0", "kind": "modelling"})
    *_, line = diagnosed(given.cases, {TP2.replace("fp64", precision): [close if precision == "bf16" else WRONG]}, {}, given)
    said = f"Decide: python -m validation run --preset tiny --set num_hidden_layers=2 --layouts {decides} --plugin my.patch"
    assert sorted(line.split()) == sorted(said.split())


def test_a_diagnosis_reads_the_properties_that_the_files_have() -> None:
    (single, tp2) = suites(CASES, {}, {TP2: {"broken": "4"}})
    assert ("broken" in single.properties, tp2.properties["broken"], tp2.properties["arrangement"]) == (False, "4", "tp2")


@pytest.mark.parametrize(
    ("status", "went", "found"),
    [
        ("pass", {}, False),
        ("known", {}, False),
        ("unevaluated", {}, False),
        ("fail", {}, True),
        ("error", {}, True),
        ("pass", {TP2: {"broken": "4"}}, True),
    ],
)
def test_a_run_is_not_looked_at_if_a_diagnosis_would_find_nothing(status: str, went: Went, found: bool) -> None:
    checks = {TP2: [replace(WRONG, status=status)]}
    assert (diagnosis(CASES, checks, went) is not None) is (diagnose(suites(CASES, checks, went)) is not None) is found


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        (["pass", "known"], "PASS"),
        (["pass", "unevaluated"], "ERROR"),
        (["unevaluated"], "ERROR"),
        (["pass", "error", "unevaluated"], "ERROR"),
        (["fail", "error", "unevaluated"], "FAIL"),
    ],
)
def test_a_testsuite_passes_only_if_all_of_it_was_evaluated(statuses: list[str], verdict: str) -> None:
    checks = {SINGLE: [Check("mla", f"{number}", status) for number, status in enumerate(statuses)]}
    tally = SimpleNamespace(word="FAIL", checks=len(statuses), counts={}, first={})
    files = SimpleNamespace(path=lambda name: Path(f"{name}.xml"))
    conclusion: Any = SimpleNamespace(
        tally=tally, seconds=1.0, missing=0, checks=checks, wanted=CASES[:1], how_it_went={}, files=files
    )
    conclusion.settings, conclusion.not_shown = SimpleNamespace(show=ALL, trial=None), dict
    document = Document()
    Findings(document).take(cast(Conclusion, conclusion), {})
    assert [suite["verdict"] for suite in document["suites"]] == [verdict]


def found(settings: Settings) -> dict[str, Any]:
    """The document of a run of which every case passes one check."""
    checks = {case.name: [Check("mla", "0", "pass")] for case in settings.cases}
    tally: Any = SimpleNamespace(word="PASS", checks=len(checks), counts={"pass": len(checks)}, first={})
    files: Any = SimpleNamespace(path=lambda name: Path(f"{name}.xml"))
    how: dict[str, dict[str, str]] = {case.name: {} for case in settings.cases}
    said = Document({"schema": 1, "command": "run", "exit_code": 0})
    conclusion = Conclusion(settings, cast(Any, None), files, tally, checks, settings.cases, how, 1.0, 0, len(checks), False)
    Findings(said).take(conclusion, {})
    SCHEMA.validate(said)
    return said


def test_a_document_says_what_became_of_each_setting_of_a_recipe() -> None:
    """The words of all cases together, and the stand-in."""
    settings = parsed(["--recipe", str(RECIPES / "slime-moonlight.txt")])
    recipe = found(settings)["recipe"]
    assert (recipe["source"], recipe["stand_in"]) == ("slime-moonlight.txt", "tp2ep4")
    assert recipe["changed"] == recipe["unknown"] == ["--use-dynamic-batch-size", "--max-tokens-per-gpu 8192"]
    words = {one["setting"]: one for one in recipe["settings"]}
    assert words["model.moe_permute_fusion=true"] == {
        "setting": "model.moe_permute_fusion=true",
        "word": "needs",
        "why": "Transformer Engine",
    }
    assert sum(recipe["counts"].values()) == len(words)
    assert recipe["share"] == round(recipe["counts"].get("equal", 0) / len(words), 4)


def test_a_document_says_which_settings_show_nothing() -> None:
    """And it has no `recipe`, as nobody named one."""
    said = found(parsed(["--config", "model.cp_comm_type=p2p"]))
    assert [one["setting"] for one in said["not_exercised"]] == ["model.cp_comm_type=p2p"]
    assert "recipe" not in said
