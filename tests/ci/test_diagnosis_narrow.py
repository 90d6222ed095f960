"""The parts of a diagnosis where one point, one case or one character decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.diagnosis.causes import Cause, causes, number, rounded
from ci.diagnosis.deciding import deciding
from ci.diagnosis.evidence import seen
from ci.diagnosis.traits import FEWER_BITS, Trait, traits
from ci.junit import Suite
from tests.ci.made_up import GRADIENT, NORM, OUTPUT, ROUTED, STEP, broken, sound, told, wrong
from tests.ci.runs import check, suite
from validation.case import failures


def _pairs(failing: list[Suite], passing: list[Suite], at: str) -> set[tuple[str, ...]]:
    found = causes(seen(failing), seen(passing), at)
    return {tuple(trait.name for trait in cause.traits) for cause in found if len(cause.traits) == 2}


def test_a_pair_is_of_two_plain_properties_that_do_not_go_together() -> None:
    pairs = _pairs([wrong("tp2pp2vpp2+full", GRADIENT)], [sound("single+mean")], GRADIENT)
    assert {("tp", "pp"), ("tp", "vpp"), ("tp", "+full"), ("vpp", "+full")} <= pairs
    assert not {("pp", "vpp"), ("sp", "pp"), ("sp", "+full"), ("tp", "without +mean"), ("tp", "ranks")} & pairs
    low = _pairs([wrong("pp2+1-3", of={"precision": "bf16"})], [sound("single")], OUTPUT)
    assert ("pp", "below fp32") in low
    assert not {("below fp64", "below fp32"), ("pp", "uneven stages")} & low


@pytest.mark.parametrize(
    ("error", "projection", "so"),
    [
        ("0.0001220703125", "1.0", False),
        ("0.0001220703126", "1.0", True),
        ("0.0078125", "1.0", False),
        ("0.0078124", "1.0", True),
        ("0.001220703125", "1.000244140625", False),
        ("0.001220703125", "1.000244140624", True),
    ],
)
def test_the_limits_of_rounding_are_not_rounding(error: str, projection: str, so: bool) -> None:
    """2**-13, 2**-7, and a projection that misses 1 by a fifth of the error."""
    case = seen([wrong("single", rel_error=error, projection=projection, elements="4096")])[0]
    assert rounded([(case, case.first)]) is so


def test_a_property_that_is_missing_or_no_number_is_nan() -> None:
    one = check(OUTPUT, "fail", rel_error="large", ratio="2.5")
    assert number(one, "ratio") == 2.5
    assert str(number(one, "rel_error")) == str(number(one, "floor")) == "nan"


def _decided(best: str, rival: str, *cases: Suite) -> str:
    return deciding(Cause((Trait(best),), 0), [Cause((Trait(rival),), 0)], seen(cases))


def test_a_rival_that_no_case_decides_leaves_the_next_one() -> None:
    rivals = [Cause((Trait(FEWER_BITS),), 0), Cause((Trait("+full"),), 0)]
    found = deciding(Cause((Trait("tp"),), 0), rivals, seen([wrong("tp2+full")]))
    assert found == "To decide, run tp2: if it fails, the cause is tensor parallelism, else the option +full"


def test_all_options_of_the_failing_case_may_stay() -> None:
    found = _decided("tp", "pp", wrong("tp2pp2+full+mean", GRADIENT))
    assert found.startswith("To decide, run tp2+mean+full: ")


def test_two_properties_are_named_with_each_other() -> None:
    pair = Cause((Trait("tp"), Trait("+full")), 2)
    found = deciding(pair, [Cause((Trait("tp"),), 0)], seen([wrong("tp2+full")]))
    assert found.endswith("the cause is tensor parallelism, else tensor parallelism with the option +full")


def test_the_failing_case_itself_is_decided_in_fp64() -> None:
    low = {"precision": "bf16"}
    found = deciding(Cause((), 0), [Cause((Trait("below fp64"),), 0)], seen([wrong("tp2+full", of=low)]))
    assert found == "To decide, run tp2+full in fp64: if it fails, the cause is the model itself, else precision below fp64"


def test_a_case_that_names_only_its_layout_is_read_by_that() -> None:
    """Without a precision it is of fp64, without an implementation or a transport of the default ones."""
    case = replace(wrong("tp2pp2"), properties={"layout": "tp2pp2", "preset": "tiny"})
    assert seen([case])[0].layout == "tp2pp2"
    assert _decided("tp", "pp", case) == (
        "To decide, run tp2: if it fails, the cause is tensor parallelism, else pipeline parallelism"
    )
    other = replace(sound("tp2"), properties={"layout": "tp2"})
    assert _decided("tp", "pp", case, other).startswith("To decide, run pp2: ")


def test_a_case_that_decides_keeps_to_the_rules_of_its_options_and_its_length() -> None:
    """One stage has no layers to share unevenly; 7 tokens cannot be divided among two ranks."""
    assert _decided("tp", "pp", wrong("tp2pp2+1-3", GRADIENT)).startswith("To decide, run tp2: ")
    assert _decided("tp", "pp", wrong("tp2pp2+mtp+mean", GRADIENT)).startswith("To decide, run tp2+mtp+mean: ")
    assert _decided("tp", "pp", wrong("tp2pp2+mtp", GRADIENT)).startswith("To decide, run tp2+mtp: ")
    odd = _decided("tp", "pp", wrong("tp2pp2", of={"seq_length": "7"}))
    assert odd.startswith("To decide, run pp2: ")


@pytest.mark.parametrize(("batch", "possible"), [("000003", "tp2ep2"), ("0000003", "dp2"), ("", "dp2"), ("\u0663", "dp2")])
def test_a_number_has_one_to_six_digits(batch: str, possible: str) -> None:
    """Else the preset's own counts: three sequences cannot be divided among two ranks."""
    found = _decided("ep", "dp", wrong("ep2", GRADIENT, of={"batch_size": batch, "micro_batch_size": "1"}))
    assert found.startswith(f"To decide, run {possible}: ")


def test_texts_of_a_case_are_cut() -> None:
    def layout(text: str, precision: str = "fp64") -> str:
        return seen([replace(sound("tp2"), properties={"arrangement": text, "precision": precision})])[0].layout

    sixty, more = "tp2pp2+mtp" + "+full" * 10, "tp2pp2" + "+full" * 11
    assert layout(sixty) == sixty
    assert layout(more) == f"{more[:59]}…"
    assert layout("tp2", "p" * 20) == f"tp2 in {'p' * 20}"
    assert layout("tp2", "p" * 21) == f"tp2 in {'p' * 19}…"


def test_a_layout_of_more_than_60_words_or_4000_characters_is_none() -> None:
    """A recipe's has some forty words."""
    longest, more = "tp2pp2+mtp" + "+full" * 59, "tp2pp2+mtp" + "+full" * 60
    assert "+mtp" in (traits({"arrangement": longest}) or ())
    assert traits({"arrangement": more}) is None
    assert "tp" in (traits({"arrangement": f"tp2+moe_z_loss_coeff=0.{'0' * 3974}1"}) or ())
    assert traits({"arrangement": f"tp2+moe_z_loss_coeff=0.{'0' * 3977}1"}) is None


def test_half_precision_is_below_both() -> None:
    assert {"below fp64", "below fp32"} <= set(traits({"arrangement": "tp2", "precision": "fp16"}) or ())
    assert set(traits({"arrangement": "tp2", "precision": "fp32"}) or ()) & {"below fp64", "below fp32"} == {"below fp64"}


def test_a_check_with_a_known_bug_is_sound() -> None:
    case = replace(sound("tp2"), checks=(check(NORM), check(OUTPUT, "known"), check(ROUTED, "unevaluated")))
    assert seen([case])[0].sound == {NORM, OUTPUT}


def test_what_ended_a_run_is_cut() -> None:
    def said(code: str) -> str:
        return told(replace(sound("tp2"), properties={**sound("tp2").properties, "broken": code})).sentence

    assert said("9" * 20) == f"tp2 did not finish: it ended with exit code {'9' * 20}"
    assert said("9" * 21) == f"tp2 did not finish: it ended with exit code {'9' * 19}…"
    begins = "tp2 did not finish: "
    assert told(broken("tp2", says="x" * 200)).sentence == begins + "x" * 200
    assert told(broken("tp2", says="x" * 201)).sentence == begins + "x" * 199 + "…"
    assert told(broken("tp2", says="killed - by whom\nstack\nstack")).sentence == begins + "killed - by whom"


def test_a_rival_of_two_points_leaves_it_likely() -> None:
    """All that pass recompute, and the failing one does not."""
    found = told(sound("single+full"), sound("tp2+full"), wrong("pp2", GRADIENT))
    assert ": likely pipeline parallelism in the backward pass, first at" in found.sentence
    assert not found.certain


def test_equal_causes_that_a_case_contradicts_are_not_both_named() -> None:
    found = told(sound("single"), sound("tp2"), sound("tp2pp2vpp2"), wrong("pp2vpp2"), wrong("pp2vpp2+full"))
    assert ": likely pipeline parallelism in the forward pass, first at" in found.sentence
    assert (found.groups, found.certain, found.deciding) == (("pipeline parallelism",), False, "")


def test_two_causes_are_of_two_groups() -> None:
    """Layouts with tp and no sequence parallelism are layouts with tp. A narrowed case contradicts it in one place alone."""
    narrowed = replace(sound("tp2ep2"), checks=(check(OUTPUT),), properties={**sound("tp2ep2").properties, "left_out": "900"})
    cases = [wrong("tp2nosp"), wrong("tp2pp2nosp"), wrong("tp2", ROUTED), wrong("tp2pp2", ROUTED)]
    found = told(sound("single"), sound("pp2"), narrowed, *cases)
    assert found.groups == ("tensor parallelism",)
    assert found.sentence.startswith("4 of 5 layouts with tp fail (tp2nosp, tp2pp2nosp and 2 more) and none without: likely")


def test_two_causes_explain_what_a_case_contradicts_once() -> None:
    found = told(sound("pp2"), wrong("tp2"), wrong("ep2", ROUTED))
    assert found.sentence.startswith("2 causes: ")
    assert not found.sentence.endswith(" more")
    assert (found.groups, found.deciding) == (("tensor parallelism", "expert parallelism"), "")


def test_two_causes_are_contradicted_by_no_case() -> None:
    cases = [sound("pp2"), wrong("tp2"), wrong("ep2", ROUTED)]
    assert told(*cases).sentence.startswith("2 causes: ")
    assert not told(*cases, sound("pp2ep2")).sentence.startswith("2 causes: ")


def test_a_cause_is_compared_with_failing_cases_in_which_its_check_is_sound() -> None:
    """Tensor parallelism alone cannot be why, for tp2ep2 has that and is sound there."""
    found = told(sound("pp2"), sound("single"), wrong("tp2"), wrong("tp2pp2"), wrong("tp2ep2", STEP), wrong("ep2", STEP))
    assert not found.certain


def test_one_rank_that_fails_first_is_not_told_from_several_that_fail_later() -> None:
    """No other case shows that one rank is sound."""
    found = told(wrong("single+full", GRADIENT), wrong("tp2", STEP, kind="sharding"))
    assert not found.sentence.startswith("2 causes: ")
    assert found.groups == ("modelling",)


def test_a_failure_is_named_before_limits_that_decide_nothing() -> None:
    wide = replace(check(NORM, "error"), failure=failures.UNDECIDED)
    found = told(replace(suite("tp2", (wide, check(OUTPUT, "fail"))), properties={}))
    assert found.sentence.startswith(f"{OUTPUT} fails, and its testsuite does not say")


def test_a_part_is_called_so_only_where_a_scale_is_known() -> None:
    found = told(sound("single"), sound("pp2"), wrong("tp2", projection="nan"))
    assert found.sentence.endswith(
        "tensor parallelism in the forward pass, first at Layer 0 Attention Output (relative error 7.0e-01)"
    )


def test_two_scales_of_several_are_named() -> None:
    scales = {"tp2": "0.52", "tp2pp2": "0.51", "tp4": "0.26"}
    found = told(sound("single"), sound("pp2"), *(wrong(layout, projection=scale) for layout, scale in scales.items()))
    assert found.sentence.endswith("scaled by 0.52 in tp2, 0.51 in tp2pp2)")


def test_a_pattern_is_cut_at_160_characters() -> None:
    def said(pattern: str) -> str:
        return told(wrong("single", pattern=pattern)).sentence

    assert said("p" * 160).endswith(f"({'p' * 160})")
    assert said("p" * 161).endswith(f"({'p' * 159}…)")


def test_a_component_is_cut_at_40_characters() -> None:
    def said(component: str) -> str:
        own: Any = replace(check("Own Output", "fail"), component=component)
        return told(suite("single", (check(NORM), own))).sentence

    assert f"the model itself ({'c' * 40}), not" in said("c" * 40)
    assert f"the model itself ({'c' * 39}…), not" in said("c" * 41)


def test_who_fails_is_counted_where_nothing_is_compared() -> None:
    """One layout alone, and the model itself beside a case that passes."""
    assert told(wrong("tp2", kind="sharding")).sentence.startswith("tp2 fails: likely tensor parallelism in the forward pass")
    found = told(sound("pp2"), wrong("single"), wrong("tp2", kind="modelling"))
    assert found.sentence.startswith("2 of 3 cases fail (single and tp2): likely the model itself (MLA), not how it is spread")
