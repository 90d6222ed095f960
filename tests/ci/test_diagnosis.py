"""The diagnosis of made-up runs: what it names, how sure it is, and which case would decide."""

from __future__ import annotations

from dataclasses import replace

from ci.diagnosis import Diagnosis, First, diagnose
from ci.junit import Suite
from tests.ci.runs import check, suite

NORM, OUTPUT, ROUTED = "Layer 0 Input Norm Output", "Layer 0 Attention Output", "Layer 1 Routed Experts Output"
TITLES = {NORM: "layers", OUTPUT: "mla", ROUTED: "moe", f"{OUTPUT} Gradient": "probe_gradients"}


def sound(arrangement: str) -> Suite:
    """A case in which all is well."""
    return suite(arrangement, tuple(check(title, module=module) for title, module in TITLES.items()))


def wrong(arrangement: str, title: str = OUTPUT, module: str = "", **properties: str) -> Suite:
    """A case that fails at one check."""
    found = [check(name, module=in_module) for name, in_module in TITLES.items() if name != title]
    found.append(check(title, "fail", module or TITLES[title], **properties))
    return suite(arrangement, tuple(found))


def told(*suites: Suite) -> Diagnosis:
    """The diagnosis of something that fails."""
    found = diagnose(suites)
    assert found is not None
    return found


def test_nothing_is_said_of_a_sound_run() -> None:
    assert diagnose([sound("single"), sound("tp2")]) is None
    assert diagnose([]) is None


def test_what_every_failing_layout_has_and_no_other_is_the_cause() -> None:
    lost = {"kind": "sharding", "projection": "0.493543"}
    found = told(sound("single"), sound("pp2"), wrong("tp2", **lost), wrong("tp2pp2", **lost))
    assert found.sentence == (
        "Every case with tp fails (tp2 and tp2pp2) and none without: a reduction of tensor parallelism is missing, "
        "first at Layer 0 Attention Output (about 1/tp of it is left: scaled by 0.49)"
    )
    assert (found.group, found.certain, found.deciding) == ("tensor parallelism", True, "")
    assert found.first == First("mla", OUTPUT, "tiny-tp2-fp64-local-gloo")


def test_two_causes_that_always_occur_together_are_both_named_with_the_case_that_decides() -> None:
    found = told(sound("single"), sound("tp2"), wrong("pp2vpp2"))
    assert "pipeline parallelism in the forward pass or virtual pipeline in the forward pass, first at" in found.sentence
    assert found.deciding == "To decide, run pp2: if it fails, it is pipeline parallelism, else virtual pipeline"
    assert not found.certain


def test_a_failure_on_one_rank_is_the_models() -> None:
    found = told(wrong("single"), wrong("tp2"), wrong("pp2"))
    assert found.sentence.startswith("All 3 cases fail (single, tp2 and 1 more): the model itself, not how it is spread over")
    assert (found.group, found.certain) == ("modelling", True)


def test_a_self_test_is_no_evidence() -> None:
    plant = check("Planted defect seen: rope", "fail", "self_test")
    assert diagnose([sound("tp2"), replace(suite("single", (plant,)), name="self-test-tiny-tp2-fp64-local-gloo")]) is None
