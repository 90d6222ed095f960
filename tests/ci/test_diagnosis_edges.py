"""The parts of a diagnosis at their edges: places, costs, words and the case that decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.diagnosis import Diagnosis, First, diagnose
from ci.diagnosis.causes import Cause, causes, near_floor, places, rounded
from ci.diagnosis.deciding import deciding
from ci.diagnosis.evidence import listed, phase, seen
from ci.diagnosis.traits import Trait, implies, traits
from ci.diagnosis.words import groups, name, noun, other
from tests.ci.made_up import GRADIENT, NORM, OUTPUT, ROUTED, STEP, WEIGHT, broken, sound, told, wrong
from tests.ci.runs import check, suite


@pytest.mark.parametrize(
    ("title", "module", "found"),
    [
        ("Layer 0 Input Norm Weight", "weights", {"weights"}),
        ("Layer 1 Experts Gate Weight", "weights", {"weights", "experts"}),
        (OUTPUT, "mla", {"forward"}),
        (ROUTED, "moe", {"forward", "experts", "computed experts"}),
        ("Layer 1 MoE Output", "moe", {"forward", "experts", "computed experts"}),
        ("Layer 1 Weighted Expert Outputs", "own", {"forward", "experts", "computed experts"}),
        ("Layer 1 Load Balancing Loss", "router", {"forward", "balancing", "experts", "computed experts"}),
        ("Layer 1 Shared Expert Output", "moe", {"forward"}),
        ("Token Losses", "output", {"forward", "loss"}),
        ("Token Losses Gradient", "probe_gradients", {"backward"}),
        ("Layer 1 Experts Gate Weight Gradient", "gradients", {"backward", "experts"}),
        (STEP, "steps", {"steps", "first of a step"}),
        ("Step 1 Embedding Weight First Moment", "steps", {"steps", "first of a step"}),
        ("Step 1 Layer 0 Input Norm Weight", "steps", {"steps"}),
        ("Step 1 Layer 1 Experts Gate Weight", "steps", {"steps", "experts"}),
    ],
)
def test_a_check_stands_at_places(title: str, module: str, found: set[str]) -> None:
    assert places(check(title, "fail", module)) == found


def test_a_weight_without_numbers_is_missing() -> None:
    gone = replace(check(WEIGHT, "error", "weights"), properties={})
    assert phase(gone) == "missing"
    assert phase(replace(gone, status="fail")) == "weights"
    assert phase(check(WEIGHT, "error", "weights")) == "weights"
    assert phase(replace(gone, component="gradients")) == "backward"


CAN_SHOW = {
    "tp": (WEIGHT, OUTPUT, ROUTED, GRADIENT, STEP),
    "pp": (WEIGHT, OUTPUT, ROUTED, GRADIENT, STEP),
    "cp": (OUTPUT, ROUTED, GRADIENT, STEP),
    "sp": (OUTPUT, ROUTED, GRADIENT, STEP),
    "nosp": (OUTPUT, ROUTED, GRADIENT, STEP),
    "ep": (ROUTED, GRADIENT, STEP),
    "etp": (ROUTED, GRADIENT, STEP),
    "ep or etp": (ROUTED, GRADIENT, STEP),
    "dp": (GRADIENT, STEP),
    "dp or cp": (GRADIENT, STEP),
    "+distributed": (GRADIENT, STEP),
    "+full": (GRADIENT, STEP),
    "+selective": (GRADIENT, STEP),
    "+mean": (GRADIENT, STEP),
    "+seqaux": (GRADIENT, STEP),
    "+aux": (GRADIENT, STEP),
    "+zloss": (GRADIENT, STEP),
    "+allgather": (ROUTED, GRADIENT, STEP),
    "+sequential": (ROUTED, GRADIENT, STEP),
    "+grouped": (ROUTED, GRADIENT, STEP),
    "+mtp": (WEIGHT, OUTPUT, ROUTED, GRADIENT, STEP),
}


@pytest.mark.parametrize("property_", CAN_SHOW)
def test_where_a_property_cannot_show_first_three_points_speak_against_it(property_: str) -> None:
    arrangement = {"cp": "cp2", "tp": "tp2", "sp": "tp2", "nosp": "tp2nosp", "pp": "pp2", "etp": "tp2", "dp": "dp2"}.get(
        property_, "ep2" if property_.startswith("ep") else "cp2" if property_ == "dp or cp" else f"single{property_}"
    )
    for title in (WEIGHT, OUTPUT, ROUTED, GRADIENT, STEP):
        failing, passing = seen([wrong(arrangement, title)]), seen([sound("single")])
        cost = _cost_of(causes(failing, passing, title), property_)
        assert cost == Trait(property_).far_fetched + (0 if title in CAN_SHOW[property_] else 3), title


def _cost_of(found: list[Cause], property_: str) -> int:
    return next(cause.cost for cause in found if [trait.name for trait in cause.traits] == [property_])


def test_points_add_up() -> None:
    """A case that passes, two at once, a lack, what all have."""
    failing, passing = seen([wrong("tp2+full", GRADIENT)]), seen([sound("tp2"), sound("single+full"), sound("single+mean")])
    found = {tuple(trait.name for trait in cause.traits): cause.cost for cause in causes(failing, passing, GRADIENT)}
    assert found["tp",] == 3
    assert found["+full",] == 3
    assert found["tp", "+full"] == 2
    assert found["without +mean",] == 3 * 2 + 2
    assert found[()] == 9
    assert ("tp", "sp") not in found
    assert ("etp", "sp") not in found
    all_have = seen([wrong("single+mean", GRADIENT), wrong("tp2+mean", GRADIENT)])
    assert _cost_of(causes(all_have, seen([sound("pp2+mean")]), GRADIENT), "+mean") == 3 + 1
    spoken = [cause.cost for cause in causes(failing, passing, GRADIENT)]
    assert spoken == sorted(spoken)


def test_one_rank_alone_speaks_against_three_points() -> None:
    passing = seen([sound("single"), sound("pp2")])
    for kind, of_model, of_layout in (("sharding", 9, 0), ("modelling", 6, 3), ("", 6, 0)):
        found = causes(seen([wrong("tp2", kind=kind)]), passing, OUTPUT)
        assert found[[cause.traits for cause in found].index(())].cost == of_model
        assert _cost_of(found, "tp") == of_layout
    stages = causes(seen([wrong("pp2+1-3", kind="modelling")]), passing, OUTPUT)
    assert _cost_of(stages, "uneven stages") == 3
    distributed = causes(seen([wrong("dp2+distributed", STEP, kind="modelling")]), passing, STEP)
    assert _cost_of(distributed, "+distributed") == 3
    full = causes(seen([wrong("dp2+full", STEP, kind="modelling")]), passing, STEP)
    assert _cost_of(full, "+full") == 0


def test_only_the_cases_that_are_wrong_there_say_what_one_rank_does() -> None:
    """One fails elsewhere, and its kind is that of another check."""
    failing = seen([wrong("tp2pp2", STEP, kind="modelling"), wrong("tp2", OUTPUT, kind="sharding")])
    assert _cost_of(causes(failing, seen([sound("single"), sound("pp2")]), OUTPUT), "tp") == 0


@pytest.mark.parametrize(
    ("error", "ratio", "small"),
    [
        ("0.0078", "nan", True),
        ("0.0078125", "nan", False),
        ("0.5", "15.9", True),
        ("0.5", "16.0", False),
        ("0.5", "nonsense", False),
        ("nan", "nan", False),
    ],
)
def test_an_error_is_as_small_as_rounding(error: str, ratio: str, small: bool) -> None:
    assert near_floor([check(OUTPUT, "fail", rel_error=error, ratio=ratio)]) is small


def test_every_error_must_be_as_small() -> None:
    little, large = check(OUTPUT, "fail", rel_error="0.001"), check(OUTPUT, "fail", rel_error="0.5")
    assert near_floor([little, little])
    assert not near_floor([little, large])
    assert not near_floor([])
    assert not near_floor([replace(little, properties={})])


@pytest.mark.parametrize(
    ("properties", "so"),
    [
        ({}, True),
        ({"rel_error": "0.00013"}, True),
        ({"rel_error": "0.00012"}, False),
        ({"rel_error": "0.0078", "projection": "1.0"}, True),
        ({"rel_error": "0.0079", "projection": "1.0"}, False),
        ({"projection": "1.0003"}, True),
        ({"projection": "0.9997"}, True),
        ({"projection": "1.00035"}, False),
        ({"projection": "0.9996"}, False),
        ({"projection": "nan"}, False),
        ({"elements": "64"}, True),
        ({"elements": "63"}, False),
        ({"elements": "many"}, False),
    ],
)
def test_an_error_is_that_of_rounding(properties: dict[str, Any], so: bool) -> None:
    """As large as it, in no direction, and of so many elements that this says something."""
    usual = {"rel_error": "0.00165", "projection": "1.00001", "elements": "4096"}
    case = seen([wrong("single", **(usual | ({"projection": "1.00001"} if "rel_error" in properties else {}) | properties))])[0]
    found = case.wrong_at(OUTPUT)
    assert found is not None
    assert rounded([(case, found)]) is so


def test_what_is_wrong_in_bf16_says_nothing_of_rounding() -> None:
    """There everything is rounded; all exact cases must agree."""
    small = {"rel_error": "0.00165", "projection": "1.00001", "elements": "4096"}
    low, exact = wrong("single", of={"precision": "bf16"}, **small), wrong("tp2", of={"precision": "fp32"}, **small)
    large = wrong("cp2", rel_error="0.7", projection="1.0", elements="4096")
    pairs = [(case, check) for case in seen([low, exact, large]) if (check := case.wrong_at(OUTPUT))]
    assert not rounded(pairs[:1])
    assert rounded(pairs[:2])
    assert not rounded(pairs)


@pytest.mark.parametrize(
    ("one", "wider"),
    [
        *(("sp", "tp"), ("nosp", "tp"), ("vpp", "pp"), ("uneven stages", "pp"), ("ep", "ep or etp"), ("etp", "ep or etp")),
        *(("dp", "dp or cp"), ("cp", "dp or cp"), ("below fp32", "below fp64"), ("tp", "ranks"), ("dp or cp", "ranks")),
    ],
)
def test_what_goes_with_what(one: str, wider: str) -> None:
    assert implies(one, wider)
    assert not implies(wider, one)
    assert not implies("+full", wider)


def test_the_traits_of_a_case() -> None:
    said = {
        "arrangement": "tp2pp2vpp2+full",
        "precision": "bf16",
        "implementation": "te",
        "transport": "nccl",
        "preset": "mini",
    }
    found = traits(said)
    assert found is not None
    assert {trait: value.value for trait, value in found.items()} == {
        "tp": 2,
        "sp": 2,
        "pp": 2,
        "vpp": 2,
        "etp": 2,
        "ep or etp": 2,
        "ranks": 4,
        "+full": 1,
        "below fp64": 1,
        "below fp32": 1,
        "implementation te": 1,
        "transport nccl": 1,
        "preset mini": 1,
    }
    spread = traits({"layout": "ep4cp2dp4nosp", "precision": "fp32", "isolated": "True"})
    assert spread is not None
    assert set(spread) == {"cp", "ep", "dp", "dp or cp", "ep or etp", "ranks", "below fp64", "isolated"}
    assert (spread["dp or cp"].value, spread["ep or etp"].value, spread["ranks"].value) == (8, 4, 8)
    nosp = traits({"arrangement": "tp2nosp", "precision": "fp16", "isolated": "False"})
    assert nosp is not None
    assert {"nosp", "below fp32"} <= set(nosp)
    assert "sp" not in nosp
    assert set(traits({"arrangement": "single+mtp2", "precision": "fp64"}) or ()) == {"+mtp2"}
    assert traits({}) is None
    assert traits({"arrangement": "single" + "+full" * 100}) is None
    of_a_recipe = (
        "tp2pp2ep4+distributed+mean+ddp.grad_reduce_in_fp32+ddp.overlap_grad_reduce+ddp.overlap_param_gather+bias_activation_fusion"
        "+bias_dropout_fusion+deallocate_pipeline_outputs+optimizer.clip_grad=1.0+optimizer.lr=1e-05+scheduler.lr_warmup_steps=9"
    )
    assert {"tp", "pp", "ep", "+mean", "+optimizer.lr=1e-05"} <= set(traits({"arrangement": of_a_recipe}) or ())


@pytest.mark.parametrize(
    ("trait", "group", "noun_"),
    [
        ("tp", "tensor parallelism", "tensor parallelism"),
        ("nosp", "tensor parallelism", "tensor parallelism"),
        ("uneven stages", "pipeline parallelism", "pipeline parallelism"),
        ("+full", "option +full", "the option +full"),
        ("without +full", "option +full", "a step without +full"),
        ("below fp64", "precision", "precision below fp64"),
        ("implementation te", "implementation", "implementation te"),
        ("isolated", "isolated", "isolated modules"),
        ("ranks", "several ranks", "what all layouts of several ranks share"),
    ],
)
def test_a_property_in_words(trait: str, group: str, noun_: str) -> None:
    assert Trait(trait).group == group
    assert noun(Trait(trait)) == noun_


def test_cases_in_a_few_words() -> None:
    cases = seen([sound("tp2"), sound("pp2"), sound("ep2"), sound("cp2", precision="bf16"), sound("cp2", precision="bf16")])
    assert listed(cases[:1]) == "tp2"
    assert listed(cases[:2]) == "tp2 and pp2"
    assert listed(cases[:3]) == "tp2, pp2 and 1 more"
    assert listed(cases) == "tp2, pp2 and 2 more"
    assert listed(cases[3:]) == "cp2 in bf16"
    assert listed(cases[:3], 3) == "tp2, pp2 and ep2"


def test_a_title_is_cut_at_120_characters() -> None:
    assert name(check("a" * 120)) == "a" * 120
    assert name(check("a" * 121)) == "a" * 119 + "…"


def test_a_user_s_own_component_is_named_as_it_is() -> None:
    own = replace(check("Own Output", "fail"), component="team.checks.test_own")
    found = told(suite("single", (check(NORM), own)))
    assert "the model itself (team.checks.test_own), not how" in found.sentence


def test_seven_points_are_too_many_and_six_are_not() -> None:
    assert groups(Cause((Trait("tp"),), 6), "forward") == ("tensor parallelism",)
    assert groups(Cause((Trait("tp"),), 7), "forward") == ("undecided",)
    six = told(*map(sound, ("single", "pp2", "cp2", "tp2cp2", "tp2pp2")), wrong("tp2"))
    assert six.groups == ("tensor parallelism",)
    assert six.sentence.startswith("1 of 3 layouts with tp fail (tp2) and none without: likely tensor parallelism")
    nine = told(*map(sound, ("single", "pp2", "cp2", "tp2cp2", "tp2pp2", "tp2ep2")), wrong("tp2"), wrong("tp2dp2"))
    assert nine.groups == ("undecided",)
    assert nine.sentence.startswith("2 of 8 cases fail (tp2 and tp2dp2), and no property tells them from the others: not")


def test_a_cause_within_others() -> None:
    case = seen([wrong("tp2pp2")])[0]
    assert Cause((Trait("tp"), Trait("pp")), 0).within(case)
    assert not Cause((Trait("tp"), Trait("cp")), 0).within(case)
    assert Cause((Trait("sp"),), 1).is_part_of(Cause((Trait("tp"),), 0))
    assert not Cause((Trait("sp"), Trait("pp")), 1).is_part_of(Cause((Trait("tp"),), 0))
    assert not Cause((Trait("sp"),), 1).is_part_of(Cause((Trait("tp"), Trait("pp")), 0))
    assert Cause((Trait("tp"), Trait("nosp"), Trait("pp")), 0).groups == ("tensor parallelism", "pipeline parallelism")


def test_equally_plain_causes_are_named_up_to_three() -> None:
    different = {"precision": "bf16", "implementation": "local-stock", "transport": "staged-cpu", "preset": "mini"}
    found = told(sound("tp2"), wrong("tp2", of=different))
    three = "precision below fp64 or implementation local-stock or transport staged-cpu in the forward pass"
    assert f"none without: {three}, first" in found.sentence


def test_only_plain_causes_are_certain() -> None:
    """One point at most: sequence parallelism has one, a lack of something two."""
    assert told(sound("single"), sound("tp2nosp"), sound("pp2"), wrong("tp2"), wrong("tp2pp2")).certain
    assert not told(sound("single+full"), sound("tp2+full"), wrong("single", GRADIENT), wrong("tp2", GRADIENT)).certain


def test_of_three_causes_two_are_told_and_all_are_counted() -> None:
    """A run that did not finish is told beside them."""
    cases = [*map(sound, ("single", "dp2")), wrong("tp2", OUTPUT), wrong("cp2", NORM), wrong("pp2", WEIGHT)]
    cases += [wrong("tp2+mtp", OUTPUT), wrong("cp2+mtp", NORM)]
    found = told(*cases)
    assert found.sentence.startswith("3 causes: Every layout with tp fails")
    assert found.sentence.endswith("; and 1 more")
    assert found.groups == ("tensor parallelism", "context parallelism")
    beside = told(broken("ep2"), *cases)
    assert beside.sentence.startswith("4 causes: ep2 did not finish: ")
    assert beside.sentence.count("; Every layout with ") == 2
    assert beside.sentence.endswith("; and 1 more")


def test_causes_of_different_groups_are_told_first() -> None:
    """Tensor parallelism with and without sequence parallelism is one group."""
    cases = [wrong("tp2nosp"), wrong("tp2pp2nosp"), wrong("tp2", ROUTED), wrong("tp2pp2", ROUTED), wrong("cp2", NORM)]
    found = told(sound("single"), sound("pp2"), *cases)
    assert found.groups == ("tensor parallelism", "context parallelism")
    assert found.sentence.startswith("3 causes: Every layout with tp and no sequence parallelism fails")
    assert found.sentence.count("; Every layout with cp fails (cp2)") == 1
    assert found.sentence.endswith("; and 1 more")


def test_of_two_causes_the_first_that_something_decides_is_asked() -> None:
    cases = [*map(sound, ("single", "dp2", "cp2", "tp2")), wrong("pp2vpp2", OUTPUT), wrong("ep2", ROUTED)]
    found = told(*cases)
    assert found.groups == ("pipeline parallelism", "expert parallelism")
    assert found.deciding.startswith("To decide, run pp2: ")
    assert not found.certain


def test_a_cause_that_a_case_contradicts_once_has_no_rivals() -> None:
    found = told(*map(sound, ("single", "pp2", "dp2", "tp2cp2")), wrong("tp2"), wrong("tp2pp2"), wrong("tp2ep2"))
    assert "likely tensor parallelism in the forward pass, first" in found.sentence
    assert found.deciding == ""


def test_a_run_that_broke_without_a_code_is_one_of_the_infrastructure() -> None:
    case = broken("tp2")
    without = replace(case, properties={key: value for key, value in case.properties.items() if key != "broken"})
    assert told(without).groups == ("infrastructure",)
    both = told(without, broken("pp2", "1", "rank 0 raised KeyError('x')"))
    assert both.groups == ("crash",)
    assert both.sentence.startswith("2 cases did not finish (tp2 and pp2), pp2 with: rank 0 raised KeyError('x')")
    unsaid = replace(case, checks=(replace(case.checks[0], message="it ended\nwith this"),))
    assert told(unsaid).sentence == "tp2 did not finish: it ended"


def test_a_broken_run_s_undecided_checks_are_no_failures_and_its_failed_ones_are() -> None:
    """A case is run twice if it has known bugs, and one of both may break."""
    case = broken("tp2")
    failed = replace(case, checks=(*case.checks, check(ROUTED, "fail", "moe")))
    found = told(sound("single"), sound("pp2"), failed)
    assert found.groups == ("infrastructure", "tensor parallelism")
    assert found.first == First("moe", ROUTED, failed.name)


def test_what_a_diagnosis_says() -> None:
    found = Diagnosis("It is so", ("a", "b"), certain=False)
    assert (found.group, found.lines, found.deciding, found.first) == ("a, b", ("It is so.",), "", None)


@pytest.mark.parametrize("status", ["fail", "error"])
def test_a_failure_of_an_unknown_layout_is_named(status: str) -> None:
    found = diagnose([replace(suite("tp2", (check(NORM), check(OUTPUT, status))), properties={})])
    assert found is not None
    assert found.first == First("mla", OUTPUT, "tiny-tp2-fp64-local-gloo")
    assert other(check(OUTPUT, status))[0] == "undecided"


def _decided(best: str, rival: str, *cases: Any) -> str:
    return deciding(Cause((Trait(best),), 0), [Cause((Trait(rival),), 0)], seen(cases))


def test_the_case_that_decides_is_small_and_was_not_run() -> None:
    """The failing case's own layout with fewer options first, then small ones; of two rivals the first that can be decided."""
    assert _decided("tp", "+full", wrong("tp2+full")) == (
        "To decide, run tp2: if it fails, the cause is tensor parallelism, else the option +full"
    )
    assert _decided("tp", "+full", wrong("tp2+full"), sound("tp2")).startswith("To decide, run single+full: ")
    assert _decided("pp", "vpp", wrong("pp2vpp2"), sound("pp2"), sound("tp2pp2")) == ""
    assert deciding(Cause((Trait("tp"),), 0), [], seen([wrong("tp2")])) == ""
    assert _decided("tp", "tp", wrong("tp2")) == ""


def test_an_option_of_several_may_be_left_alone() -> None:
    found = _decided("+seqaux", "+mean", wrong("single+seqaux+mean"))
    assert found == "To decide, run single+mean: if it fails, the cause is the option +mean, else the option +seqaux"


def test_the_precision_is_decided_in_fp64() -> None:
    low = {"precision": "bf16"}
    assert _decided("below fp64", "tp", wrong("tp2", of=low)).startswith(
        "To decide, run single: if it fails, the cause is prec"
    )
    one = deciding(Cause((), 0), [Cause((Trait("below fp64"),), 0)], seen([wrong("single", of=low)]))
    assert one == "To decide, run single in fp64: if it fails, the cause is the model itself, else precision below fp64"


@pytest.mark.parametrize(
    ("properties", "possible"),
    [
        ({}, "dp2"),
        ({"batch_size": "4", "micro_batch_size": "2"}, "dp2"),
        ({"batch_size": "2", "micro_batch_size": "2"}, "tp2ep2"),
        ({"batch_size": "odd", "micro_batch_size": "9" * 50}, "dp2"),
        ({"seq_length": "7"}, "dp2"),
        ({"preset": "own", "batch_size": "3"}, "dp2"),
        ({"implementation": "nonsense"}, ""),
        ({"transport": "nonsense"}, ""),
    ],
)
def test_the_numbers_of_the_case_say_what_is_possible(properties: dict[str, str], possible: str) -> None:
    found = _decided("ep", "dp", wrong("ep2", GRADIENT, of=properties))
    assert found.startswith(f"To decide, run {possible}: ") if possible else found == ""
