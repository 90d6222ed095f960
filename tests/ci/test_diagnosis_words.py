"""The words of a diagnosis: the shape of the error, runs that broke, and what is no evidence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.diagnosis import First, diagnose
from ci.junit import Check
from tests.ci.made_up import GRADIENT, NORM, OUTPUT, ROUTED, broken, sound, told, wrong
from tests.ci.runs import check, suite
from validation.case import failures


def test_a_scale_that_follows_the_degree_is_said_with_both() -> None:
    found = told(sound("single"), sound("pp2"), wrong("tp2", projection="0.52"), wrong("tp4", projection="0.26"))
    assert "a missing tensor-parallel reduction, first" in found.sentence
    assert found.sentence.endswith("(about 1/tp of it is left: scaled by 0.52 in tp2, 0.26 in tp4)")
    other = told(sound("single"), sound("pp2"), wrong("tp2", projection="0.5"), wrong("tp4", projection="0.5"))
    assert other.sentence.endswith("(scaled by 0.5)")
    assert "reduction" not in other.sentence
    assert told(sound("single"), sound("tp2"), wrong("pp2", projection="0.5")).sentence.endswith("(scaled by 0.5)")
    half = told(sound("single"), sound("pp2"), wrong("tp2", projection="0.5", pattern="sequences 2:4 only"))
    assert half.sentence.endswith(
        "tensor parallelism in the forward pass, first at Layer 0 Attention Output (sequences 2:4 only)"
    )


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({"pattern": "rotary dimensions only"}, "rotary dimensions only"),
        ({"projection": "1.7"}, "scaled by 1.7"),
        ({"projection": "1.004"}, "relative error 7.0e-01"),
        ({"projection": "nan", "rel_error": "inf"}, ""),
        ({"projection": "0.5", "rel_error": "nonsense"}, "scaled by 0.5"),
    ],
)
def test_the_shape_of_the_error_is_said(properties: dict[str, Any], says: str) -> None:
    found = told(wrong("single", **properties))
    assert found.sentence.endswith(f"first at {OUTPUT}" + (f" ({says})" if says else ""))


UPDATED, FULL = f"Updated Prefill {OUTPUT}", f"Updated Full Forward {OUTPUT}"


@pytest.mark.parametrize(
    ("title", "before", "says"),
    [
        (UPDATED, "pass", "weights or a cache from before the update under tensor parallelism, first at"),
        (FULL, "pass", "weights from before the update under tensor parallelism, first at"),
        (UPDATED, "fail", "a missing tensor-parallel reduction, first at"),
        (UPDATED, "", "a missing tensor-parallel reduction, first at"),
    ],
)
def test_what_was_right_until_weights_were_updated_is_no_missing_reduction(title: str, before: str, says: str) -> None:
    """Half of a sum is of other weights. What was wrong before, or was not looked at, may be a reduction."""
    earlier = {title.removeprefix("Updated "): before} if before else {}
    bad = check(title, "fail", "mla", rel_error="0.7", projection="0.5", kind="sharding")
    later = {name: check(name, status, "mla", rel_error="0.0") for name, status in earlier.items()}
    both = (bad, *later.values()) if title == UPDATED else (*later.values(), bad)
    found = told(sound("single"), sound("pp2"), suite("tp2", (check(NORM), *both)))
    assert says in found.sentence
    assert ("about 1/tp of it is left" in found.sentence) == (before != "pass")
    assert found.groups == ("tensor parallelism",)


@pytest.mark.parametrize(
    ("title", "module", "says"),
    [
        ("Step 1 Embedding Weight", "steps", "tensor parallelism in the optimizer step"),
        ("Embedding Weight", "weights", "weights loaded or converted wrong under tensor parallelism"),
    ],
)
def test_half_a_weight_is_no_missing_reduction(title: str, module: str, says: str) -> None:
    """Neither what is loaded nor what a step makes of right gradients is a sum."""
    found = told(sound("single"), sound("pp2"), suite("tp2", (check(title, "fail", module, projection="0.5"),)))
    assert found.sentence.endswith(f"{says}, first at {title} (scaled by 0.5)")


def test_copies_that_are_parts_of_a_sum_are_a_missing_reduction() -> None:
    pattern = "the copies on ranks 0-1 have the reference as their sum: a reduction over them is missing"
    found = told(sound("single"), sound("pp2"), sound("ep2"), wrong("dp2", GRADIENT, pattern=pattern))
    assert "none without: likely a missing data-parallel reduction" in found.sentence.replace("dp or cp", "dp")
    sharded = told(*map(sound, ("single", "pp2", "ep2")), wrong("cp2", GRADIENT, pattern=pattern))
    assert "a missing context-parallel reduction, first" in sharded.sentence


@pytest.mark.parametrize(
    ("factors", "says"),
    [
        (
            "tp or micro-batches: summed or multiplied once too often",
            "a tensor-parallel sum made twice",
        ),
        ("1/dp or 1/tp: a sum or a factor is missing", "a tensor-parallel sum divided by tp once too often"),
        ("never computed", "tensor parallelism in the forward pass"),
        ("1/dp or 1/cp: a sum or a factor is missing", "tensor parallelism in the forward pass"),
    ],
)
def test_a_constant_that_is_the_degree_is_no_missing_part_of_a_sum(factors: str, says: str) -> None:
    """A part of a sum is no constant times the whole of it."""
    pattern = f"0.5 times the reference everywhere ({factors})"
    found = told(sound("single"), sound("pp2"), wrong("tp2", projection="0.5", pattern=pattern))
    assert f" and none without: {says}, first at" in found.sentence
    assert found.sentence.endswith(f"({pattern})")


def test_a_choice_that_is_equal_has_no_size() -> None:
    case = wrong("single", rel_error="0.0", projection="1.0")
    assert told(case).sentence.endswith(f"first at {OUTPUT}")
    message = "FAIL: x - 4 tokens choose by other scores than their own with the bias (off by at most 4.5e-04)"
    checks = tuple(replace(one, message=message) for one in case.checks)
    assert told(replace(case, checks=checks)).sentence.endswith("(not chosen by its own scores and the bias)")


def test_what_is_not_finite_and_copies_that_differ_are_said_beside_where_they_are() -> None:
    replicas = "FAIL: x - replicas of [] on ranks 0, 1 differ in their bytes; relative error 4.30e-01"
    for failure, message, says in (
        (failures.NOT_FINITE, "", "NaN or infinite, position 3 only"),
        (failures.REPLICAS, replicas, "position 3 only, the copies on ranks 0, 1 differ"),
    ):
        case = wrong("tp2", pattern="position 3 only", kind="sharding")
        checks = tuple(replace(one, failure=failure, message=message) if one.name == OUTPUT else one for one in case.checks)
        assert told(sound("single"), sound("pp2"), replace(case, checks=checks)).sentence.endswith(f"({says})")


@pytest.mark.parametrize("how", ["pattern", "failure"])
def test_copies_that_differ_are_not_the_models(how: str) -> None:
    """One rank has no copies."""
    pattern = "the copies on ranks 0-1 have the reference as their sum: a reduction over them is missing"
    case = wrong("tp2", GRADIENT, pattern=pattern if how == "pattern" else "")
    kinds = {GRADIENT: failures.REPLICAS if how == "failure" else ""}
    found = told(replace(case, checks=tuple(replace(one, failure=kinds.get(one.name, "")) for one in case.checks)))
    assert "tensor parallelism" in found.groups
    assert "the model" not in found.sentence


def test_what_comes_out_otherwise_each_time_is_called_so() -> None:
    case = wrong("tp2", kind="sharding")
    checks = [replace(one, message=f"{one.message}; not repeatable: run again, other bytes come out") for one in case.checks]
    found = told(sound("single"), sound("pp2"), replace(case, checks=tuple(checks)))
    assert found.sentence.endswith("(relative error 7.0e-01, not repeatable: a race, or something random)")


def test_a_self_test_is_no_evidence() -> None:
    plant = check("Planted defect seen: rope", "fail", "self_test")
    assert diagnose([sound("tp2"), replace(suite("single", (plant,)), name="anything")]) is None
    assert diagnose([sound("tp2"), replace(wrong("single"), name="self-test-tiny-tp2-fp64-local-gloo")]) is None


def test_a_run_that_broke_is_said_with_what_broke_it() -> None:
    """No number was compared, so that nothing is said of any."""
    found = told(sound("single"), broken("tp2"))
    assert found.sentence == "tp2 did not finish: rank 1 was killed by SIGKILL in 'forward'"
    assert (found.groups, found.certain, found.first) == (("infrastructure",), True, None)
    several = told(broken("tp2"), broken("pp2", "1", "rank 0 raised ValueError('x')"), broken("ep2"))
    assert several.sentence == "3 cases did not finish (tp2, pp2 and 1 more), pp2 with: rank 0 raised ValueError('x')"
    assert several.groups == ("crash",)


def test_a_file_that_says_it_did_not_finish_is_one_of_a_run_that_broke() -> None:
    unfinished = suite("tp2", (Check("validation", "run", "error", message="did not finish"),))
    assert told(unfinished).sentence == "tp2 did not finish: it was killed, or is still going"
    silent = replace(sound("tp2"), properties={**sound("tp2").properties, "broken": "4"})
    assert told(silent).sentence == "tp2 did not finish: it ended with exit code 4"


def test_what_failed_beside_a_run_that_broke_is_said_too() -> None:
    found = told(broken("tp2"), wrong("single"), wrong("pp2", kind="modelling"))
    assert found.sentence.startswith(
        "2 causes: tp2 did not finish: rank 1 was killed by SIGKILL in 'forward'; 2 cases fail (single and pp2): "
    )
    assert found.groups == ("infrastructure", "modelling")
    assert found.first == First("mla", OUTPUT, "tiny-single-fp64-local-gloo")


def test_a_narrowed_run_that_left_the_check_out_is_no_evidence_of_it() -> None:
    """It passes, and has not looked."""
    narrowed = replace(sound("tp2pp2"), checks=(check(NORM),), properties={**sound("tp2pp2").properties, "left_out": "900"})
    found = told(sound("single"), sound("pp2"), narrowed, wrong("tp2"), wrong("tp2ep2"))
    assert (found.groups, found.certain) == (("tensor parallelism",), True)
    looked = replace(sound("tp2pp2"), properties=narrowed.properties)
    assert not told(sound("single"), sound("pp2"), looked, wrong("tp2"), wrong("tp2ep2")).certain


def test_texts_out_of_results_are_made_plain() -> None:
    """And none of them is believed to be what it is not."""
    nasty = "\x1b[31m::error::x\n<b>|`" + "a" * 5000
    bad = replace(check(OUTPUT, "fail", "mla", pattern=nasty), name=nasty)
    found = told(sound("single"), sound("pp2"), suite("tp2", (check(NORM), bad)))
    assert found.sentence.isprintable()
    assert len(found.sentence) < 700
    assert found.first is not None
    assert found.first.name.isprintable()
    crashed = told(broken("tp2", "4", nasty), broken("pp2", nasty))
    assert crashed.sentence.isprintable()
    assert len(crashed.sentence) < 500


def test_a_testsuite_that_does_not_say_its_layout_is_not_guessed_about() -> None:
    case = wrong("tp2")
    unknown = replace(case, properties={"arrangement": "tp2 and more"})
    found = told(unknown)
    assert found.sentence == "Layer 0 Attention Output fails, and its testsuite does not say of which layout it is: not decided"
    assert (found.groups, found.certain) == (("undecided",), False)
    assert found.first == First("mla", OUTPUT, case.name)
    assert told(sound("single"), unknown, wrong("pp2")).first == First("mla", OUTPUT, "tiny-pp2-fp64-local-gloo")
    assert diagnose([replace(sound("tp2"), properties={})]) is None


def test_limits_that_decide_nothing_are_no_error_of_the_model() -> None:
    wide = replace(check(OUTPUT, "error"), failure=failures.UNDECIDED)
    found = told(replace(sound("single", precision="bf16"), checks=(check(NORM), wide)), sound("tp2"))
    assert found.sentence == (
        "Nothing is wrong, but rounding leaves limits too wide to decide, first at Layer 0 Attention Output"
    )
    assert (found.groups, found.certain) == (("undecided",), False)
    beside = told(replace(sound("single"), checks=(wide, check(NORM))), sound("pp2"), sound("ep2"), wrong("tp2", ROUTED))
    assert beside.first == First("moe", ROUTED, "tiny-tp2-fp64-local-gloo")


def test_a_known_bug_that_does_not_show_is_said() -> None:
    mended = replace(check(GRADIENT, "fail", "test_probe_gradients"), failure=failures.MENDED)
    found = told(replace(sound("tp2"), checks=(check(NORM), mended)), sound("single"))
    assert found.sentence == (
        "A known upstream bug does not show: it may be mended, first at Layer 0 Attention Output Gradient"
    )
    assert (found.groups, found.certain) == (("upstream mended",), True)
    wide = replace(check(OUTPUT, "error"), failure=failures.UNDECIDED)
    both = replace(sound("tp2"), checks=(wide, mended), properties={"arrangement": "nonsense"})
    assert told(both).group == "undecided"


def test_numbers_that_are_none_are_called_so() -> None:
    case = wrong("single", projection="nan", rel_error="nan")
    checks = [replace(one, failure=failures.NOT_FINITE) if one.name == OUTPUT else one for one in case.checks]
    assert told(replace(case, checks=tuple(checks))).sentence.endswith("first at Layer 0 Attention Output (NaN or infinite)")
