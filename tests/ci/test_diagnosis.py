"""The diagnosis of made-up runs: what it names, how sure it is, and which case would decide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ci.diagnosis import First, decides, diagnose
from ci.diagnosis.traits import traits
from ci.junit import Suite
from tests.ci.made_up import GRADIENT, NORM, OUTPUT, ROUTED, STEP, WEIGHT, sound, told, wrong
from tests.ci.runs import check

PARITY = (
    *("single", "tp2", "pp2", "ep2", "tp2etp2", "tp2ep2", "tp2pp2", "pp2ep2", "dp2+distributed", "cp2", "pp2vpp2"),
    *("pp2+1-3", "tp2cp2", "cp2ep2+allgather", "ep2etp2", "tp2ep2+distributed+full", "tp2pp2ep2", "ep4", "cp2pp2+selective"),
    *("tp2ep2+seqaux+mean", "tp2ep2dp2", "dp2+mean", "ep2dp4+mean", "cp2dp2+distributed+mean", "tp2+mtp", "pp2+mtp"),
)


def test_nothing_is_said_of_a_sound_run() -> None:
    """Nor of no run, of known upstream bugs, or of checks that nobody evaluated."""
    known = replace(sound("tp2"), checks=(check(OUTPUT, "known"), check(ROUTED, "unevaluated")))
    assert diagnose([sound("single"), sound("tp2"), known]) is None
    assert diagnose([]) is None


def test_what_every_failing_layout_has_and_no_other_is_the_cause() -> None:
    lost: dict[str, Any] = {"kind": "sharding", "projection": "0.493543"}
    found = told(sound("single"), sound("pp2"), wrong("tp2", **lost), wrong("tp2pp2", **lost))
    assert found.sentence == (
        "Every layout with tp fails (tp2 and tp2pp2) and none without: a missing tensor-parallel reduction, "
        "first at Layer 0 Attention Output (about 1/tp of it is left: scaled by 0.49)"
    )
    assert (found.groups, found.group, found.certain, found.deciding) == (
        ("tensor parallelism",),
        "tensor parallelism",
        True,
        "",
    )
    assert found.lines == (f"{found.sentence}.",)
    assert found.first == First("mla", OUTPUT, "tiny-tp2-fp64-local-gloo")


LAYOUT_TRAITS = {
    "tp": (OUTPUT, "tensor parallelism"),
    "pp": (OUTPUT, "pipeline parallelism"),
    "vpp": (OUTPUT, "virtual pipeline"),
    "uneven stages": (OUTPUT, "pipeline parallelism"),
    "cp": (OUTPUT, "context parallelism"),
    "ep": (ROUTED, "expert parallelism"),
    "etp": (ROUTED, "expert-tensor parallelism"),
    "dp": (GRADIENT, "data parallelism"),
    "dp or cp": (GRADIENT, "data parallelism"),
    "+distributed": (STEP, "option +distributed"),
}
OTHER_TRAITS = {
    "+mean": (GRADIENT, "option +mean"),
    "+seqaux": (GRADIENT, "option +seqaux"),
    "+full": (GRADIENT, "option +full"),
    "+selective": (GRADIENT, "option +selective"),
    "+allgather": (ROUTED, "option +allgather"),
    "+mtp": (GRADIENT, "option +mtp"),
}


@pytest.mark.parametrize("name", [*LAYOUT_TRAITS, *OTHER_TRAITS])
def test_each_property_of_the_layouts_of_parity_is_told_from_all_others(name: str) -> None:
    """Where one rank with the same options says whether the layout or the option makes the error."""
    at, group = (LAYOUT_TRAITS | OTHER_TRAITS)[name]
    kind = "sharding" if name in LAYOUT_TRAITS else "modelling"
    cases = [
        wrong(layout, at, kind=kind) if name in (traits({"arrangement": layout}) or ()) else sound(layout) for layout in PARITY
    ]
    found = told(*cases)
    assert found.groups[0] == group
    assert found.certain
    assert found.first is not None
    assert found.first.name == at


def test_two_causes_that_always_occur_together_are_both_named_with_the_case_that_decides() -> None:
    found = told(sound("single"), sound("tp2"), wrong("pp2vpp2"))
    assert found.sentence == (
        "Every layout with pp fails (pp2vpp2) and none without: pipeline parallelism or virtual "
        "pipeline in the forward pass, first at Layer 0 Attention Output (relative error 7.0e-01)"
    )
    assert found.deciding == "To decide, run pp2: if it fails, the cause is pipeline parallelism, else virtual pipeline"
    assert found.lines == (f"{found.sentence}.", f"{found.deciding}.")
    assert (found.group, found.certain) == ("pipeline parallelism", False)


def test_the_case_that_decides_has_been_run_and_decides() -> None:
    assert told(sound("single"), sound("tp2"), sound("pp2"), wrong("pp2vpp2")).groups == ("virtual pipeline",)
    both = told(sound("single"), sound("tp2"), wrong("pp2"), wrong("pp2vpp2"))
    assert (both.groups, both.certain) == (("pipeline parallelism",), True)


@pytest.mark.parametrize(
    ("implementation", "at", "kernel"),
    [
        ("te", "Layer 1 Key after RoPE Gradient", True),
        ("te-fused", "Layer 0 Core Attention Output", True),
        ("te-flash", "Layer 0 Value Gradient", True),
        ("te-unfused", "Layer 1 Key after RoPE Gradient", False),
        ("local", "Layer 1 Key after RoPE Gradient", False),
        ("te", "Layer 0 Attention Output", False),
        ("te", "Layer 0 Query before RoPE Gradient", False),
    ],
)
def test_where_attention_is_wrong_first_its_kernel_is_in_question(implementation: str, at: str, kernel: bool) -> None:
    """As with packed documents of Megatron-Core 0.19 on Hopper (docs/findings/packed-gradients-of-widened-values.md)."""
    said = {"arrangement": "single+packed", "precision": "bf16", "implementation": implementation}
    found = told(Suite("made up", (check(at, "fail", "mla"),), said))
    sentence = (
        "To decide, run single+packed with --implementation te-unfused: "
        "if it fails, the cause is the model itself, else a kernel of attention"
    )
    assert (found.deciding == sentence) == kernel
    assert decides(sentence) == ("single+packed", "", "te-unfused")


def test_a_case_that_decides_has_targets_for_its_mtp_layers() -> None:
    """Two tokens leave an MTP layer nothing to predict; without it they are enough."""
    deciding = []
    for length in ("2", "3"):
        said = {"preset": "tiny", "seq_length": length}
        deciding.append(told(sound("single", **said), wrong("pp2vpp2+mtp", of=said)).deciding)
    assert [sentence.partition(":")[0] for sentence in deciding] == ["To decide, run pp2", "To decide, run pp2+mtp"]


def test_experts_spread_are_data_parallel_ranks_until_dp2_has_been_run() -> None:
    """In the backward pass: in the forward pass data-parallel ranks have nothing to do with each other."""
    found = told(sound("single"), sound("tp2"), wrong("ep2", GRADIENT))
    assert "expert parallelism or data parallelism in the backward pass" in found.sentence
    assert found.deciding == "To decide, run dp2: if it fails, the cause is data parallelism, else expert parallelism"
    assert told(sound("single"), sound("tp2"), sound("dp2"), wrong("ep2", GRADIENT)).groups == ("expert parallelism",)
    forward = told(sound("single"), sound("tp2"), wrong("ep2", ROUTED))
    assert (forward.groups, forward.certain) == (("expert parallelism",), True)


def test_what_the_place_rules_out_is_not_named() -> None:
    """Experts are behind attention, so that etp is not why attention is wrong; behind them both may be."""
    assert told(sound("single"), sound("pp2"), wrong("tp2", OUTPUT)).groups == ("tensor parallelism",)
    experts = told(sound("single"), sound("pp2"), wrong("tp2", ROUTED))
    assert "tensor parallelism or expert-tensor parallelism in the forward pass" in experts.sentence
    assert experts.deciding == (
        "To decide, run tp2etp1: if it fails, the cause is tensor parallelism, else expert-tensor parallelism"
    )


def test_one_layout_beside_one_rank_is_likely_and_not_certain() -> None:
    """All layouts of several ranks might fail."""
    found = told(sound("single"), wrong("tp2"))
    assert found.sentence.startswith(
        "Every layout with tp fails (tp2) and none without: likely tensor parallelism in the forward pass, first at"
    )
    assert found.deciding == (
        "To decide, run dp2: if it fails, the cause is what all layouts of several ranks share, else tensor parallelism"
    )
    assert not found.certain
    every = told(sound("single"), wrong("tp2"), wrong("pp2"), wrong("cp2"))
    assert every.groups == ("several ranks",)
    assert every.sentence.startswith("Every layout with more than one rank fails (tp2, pp2 and 1 more) and none without:")


def test_one_layout_alone_is_told_from_the_model_by_what_one_rank_computes() -> None:
    """Without that, both are named."""
    assert told(wrong("tp2", kind="modelling")).groups == ("modelling",)
    assert told(wrong("tp2", kind="modelling")).sentence.startswith("tp2 fails: the model itself (MLA), not how it is")
    spread = told(wrong("tp2", kind="sharding"))
    assert (spread.groups, spread.certain) == (("tensor parallelism",), False)
    either = told(wrong("tp2"))
    assert either.sentence.startswith("tp2 fails: the model itself (MLA) or tensor parallelism in the forward pass, first")
    assert either.deciding == "To decide, run single: if it fails, the cause is the model itself, else tensor parallelism"


def test_a_failure_on_one_rank_is_the_models() -> None:
    found = told(wrong("single"), wrong("tp2"), wrong("pp2"))
    assert found.sentence == (
        "All 3 cases fail (single, tp2 and 1 more): the model itself (MLA), not how it is spread over ranks, "
        "first at Layer 0 Attention Output (relative error 7.0e-01)"
    )
    assert (found.group, found.certain) == ("modelling", True)
    alone = told(wrong("single"))
    assert alone.sentence.startswith("single fails: the model itself (MLA)")


@pytest.mark.parametrize(
    ("at", "says", "groups"),
    [
        (WEIGHT, "weights loaded or converted wrong, first", ("weights",)),
        (NORM, "the model itself (a norm), not how it is spread over ranks, first", ("modelling",)),
        (ROUTED, "the model itself (the MoE), not how it is spread over ranks, first", ("modelling",)),
        (GRADIENT, "the model's backward pass, not how it is spread over ranks, first", ("modelling",)),
        (STEP, "the optimizer step, not how it is spread over ranks, first", ("optimizer step",)),
    ],
)
def test_where_a_step_goes_wrong_first_says_what_is_wrong(at: str, says: str, groups: tuple[str, ...]) -> None:
    found = told(wrong("single", at), wrong("tp2", at, kind="modelling"))
    assert f": {says} at {at} (" in found.sentence
    assert found.groups == groups


@pytest.mark.parametrize(
    ("at", "says", "groups"),
    [
        (WEIGHT, "weights loaded or converted wrong under tensor parallelism", ("tensor parallelism", "weights")),
        (GRADIENT, "tensor parallelism in the backward pass", ("tensor parallelism",)),
        (STEP, "tensor parallelism in the optimizer step", ("tensor parallelism", "optimizer step")),
    ],
)
def test_under_which_layouts_it_goes_wrong_there_is_said_with_it(at: str, says: str, groups: tuple[str, ...]) -> None:
    found = told(sound("single"), sound("pp2"), sound("ep2"), *(wrong(layout, at) for layout in ("tp2", "tp2ep2")))
    assert f"{says}, first at {at} (" in found.sentence
    assert (found.groups, found.certain) == (groups, True)


def test_weights_that_no_rank_holds_are_the_models_and_not_the_converters() -> None:
    def without(layout: str) -> Suite:
        gone = replace(check(WEIGHT, "error", "weights"), properties={})
        return replace(sound(layout), checks=(gone, *wrong(layout, OUTPUT).checks[1:]))

    found = told(without("single"), without("tp2"))
    assert ": a model built without weights of the checkpoint, first at Layer 0 MLP Gate Weight" in found.sentence
    assert found.groups == ("modelling",)
    staged = told(sound("single"), sound("tp2"), without("pp2"))
    assert "a model built without weights of the checkpoint under pipeline parallelism, first" in staged.sentence


def test_what_fails_in_the_lower_precision_alone_is_of_the_precision() -> None:
    low = {"precision": "bf16"}
    found = told(sound("single"), sound("tp2"), wrong("single", of=low), wrong("tp2", of=low))
    assert found.sentence.startswith(
        "Every case with precision below fp64 fails (single in bf16 and tp2 in bf16) and none without: precision below fp64 in"
    )
    assert (found.groups, found.certain) == (("precision",), True)
    half = told(sound("single"), sound("single", precision="fp32"), wrong("single", of=low))
    assert half.sentence.startswith("Every case with precision below fp32 fails (single in bf16) and none without: ")


def test_a_lower_precision_alone_may_be_why_if_the_error_is_small() -> None:
    low = {"precision": "bf16"}
    small = told(wrong("single", of=low, rel_error="0.002", ratio="3.5"), wrong("tp2", of=low, rel_error="0.002", ratio="3.5"))
    assert ": the model itself (MLA) or precision below fp64 in the forward pass, first" in small.sentence
    assert small.deciding == (
        "To decide, run single in fp64: if it fails, the cause is the model itself, else precision below fp64"
    )
    large = told(wrong("single", of=low, ratio="300.0"), wrong("tp2", of=low, ratio="300.0"))
    assert ": likely the model itself (MLA)" in large.sentence


_PLACES: tuple[tuple[dict[str, Any], bool], ...] = (
    ({"pattern": "position 5 only"}, False),
    ({"pattern": "rank 1 only (tp 1), head 2 only"}, False),
    ({"pattern": "one element only"}, False),
    ({"pattern": "every position but the first, which sees only itself: what mixes positions"}, True),
    ({"pattern": "rotary dimensions only", "wrong": "wrong: rank 0 [0:4, 5, 0:16]"}, True),
    ({"wrong": "wrong: rank 0 [0:4, 3 in 0:40, 0:16]"}, False),
    ({"wrong": "wrong: rank 0 [0:4, 3 in 0:40, 0:16] and 1 more"}, True),
    ({"wrong": "wrong: ranks 0-1 [0:4, 0:16, 0:32], rank 2 [0:4, 16:32, 0:32]"}, True),
    ({"wrong": "wrong: rank 0 [in, :]"}, True),
)
"""Where an error as large as rounding is, and whether it may be rounding: that spares no tokens, heads, experts and ranks."""


def test_an_error_that_is_as_large_as_rounding_is_named_for_it_beside_the_model() -> None:
    """In every case, those of fp64 too: something computes in fewer bits, or the model has a small error of its own."""
    small: dict[str, Any] = {"rel_error": "0.00165", "projection": "1.00001", "elements": "4096"}
    found = told(wrong("single", **small), wrong("tp2", kind="modelling", **small))
    assert found.sentence == (
        "Both cases fail (single and tp2): rounding to fewer bits in the forward pass or the model itself (MLA), not how "
        "it is spread over ranks, first at Layer 0 Attention Output (relative error 1.6e-03)"
    )
    assert (found.groups, found.certain, found.deciding) == (("precision",), False, "")
    loaded = told(wrong("single", WEIGHT, **small), wrong("tp2", WEIGHT, **small))
    assert ": weights rounded to fewer bits or weights loaded or converted wrong, first at" in loaded.sentence
    assert loaded.groups == ("precision", "weights")
    some = told(sound("single"), sound("pp2"), wrong("tp2", kind="sharding", **small))
    assert (some.groups, some.certain) == (("tensor parallelism",), True)
    for more, named in _PLACES:
        said = told(wrong("single", **small, **more), wrong("tp2", kind="modelling", **small)).sentence
        assert ("fewer bits" in said) == named, more
    few = told(*map(sound, ("tp2", "ep2", "dp2")), wrong("single", **small))
    assert few.sentence.startswith("1 of 4 cases fails (single), and no property tells")


def test_a_tensor_of_another_type_is_of_the_precision() -> None:
    def short(layout: str, types: str = "bfloat16 where float64") -> Suite:
        bad = replace(check(OUTPUT, "fail"), message=f"FAIL: x - rank 0: dtype {types} was declared", properties={})
        return replace(sound(layout), checks=tuple(bad if one.name == OUTPUT else one for one in sound(layout).checks))

    found = told(short("single"), short("tp2"))
    assert found.sentence == (
        "Both cases fail (single and tp2): rounding to fewer bits in the forward pass, "
        "first at Layer 0 Attention Output (bfloat16 and not float64)"
    )
    assert (found.groups, found.certain) == (("precision",), True)
    longer = told(*(short(layout, "float64 where float32") for layout in ("single", "tp2")))
    assert (longer.groups, "fewer bits" in longer.sentence) == (("modelling",), False)
    assert told(short("single"), wrong("tp2")).certain is True
    assert told(short("single"), wrong("tp2")).groups == ("modelling",)


def test_a_choice_that_is_wrong_by_nothing_leaves_the_model_likely() -> None:
    """Nothing says how large the error is that makes it."""
    found = told(*(wrong(layout, rel_error="0.0", projection="1.0") for layout in ("single", "pp2")))
    assert ": likely the model itself (MLA), not how it is spread" in found.sentence
    assert (found.groups, found.certain, found.deciding) == (("modelling",), False, "")


def test_implementation_and_transport_are_told_apart() -> None:
    """If all cases have the same they are not asked about."""
    stock = {"implementation": "local-stock"}
    found = told(sound("single"), sound("pp2"), wrong("single", of=stock), wrong("pp2", of=stock))
    assert found.sentence.startswith("Every case with implementation local-stock fails (single and pp2) and none without: ")
    assert found.groups == ("implementation",)
    staged = {"transport": "staged-cpu"}
    assert told(sound("tp2"), wrong("tp2", of=staged)).groups == ("transport",)
    both = told(sound("tp2"), wrong("tp2", of=stock | staged))
    assert "implementation local-stock or transport staged-cpu in the forward pass" in both.sentence
    assert not both.certain
    isolated = told(
        sound("single"), sound("tp2"), wrong("single", of={"isolated": "True"}), wrong("tp2", of={"isolated": "True"})
    )
    assert isolated.sentence.startswith("Every case with isolated modules fails")


def test_the_lack_of_an_option_may_be_it() -> None:
    """What it is that others have."""
    found = told(sound("single+full"), sound("tp2+full"), wrong("single", GRADIENT), wrong("tp2", GRADIENT))
    assert found.sentence.startswith("Every case without +full fails (single and tp2) and none with it: ")
    assert "a step without +full in the backward pass, first" in found.sentence
    assert found.groups == ("option +full",)


def test_two_properties_at_once_may_be_needed() -> None:
    """Neither of them alone fails."""
    found = told(*map(sound, ("single", "tp2", "dp2", "pp2")), wrong("tp2dp2", GRADIENT), wrong("tp2pp2dp2", GRADIENT))
    assert found.sentence.startswith(
        "Every layout with tp and dp fails (tp2dp2 and tp2pp2dp2) and none without: tensor parallelism with data parallelism"
    )
    assert (found.groups, found.certain) == (("tensor parallelism", "data parallelism"), False)


def test_a_layout_that_has_the_property_and_passes_leaves_it_likely() -> None:
    cases = [sound(layout) for layout in ("single", "pp2", "ep2", "dp2", "cp2", "tp2cp2")]
    found = told(*cases, wrong("tp2"), wrong("tp2pp2"), wrong("tp2ep2"))
    assert found.sentence.startswith(
        "3 of 4 layouts with tp fail (tp2, tp2pp2 and 1 more) and none without: likely tensor parallelism in the forward pass"
    )
    assert (found.certain, found.deciding) == (False, "")


def test_what_no_property_tells_apart_is_not_decided() -> None:
    found = told(*map(sound, ("tp2", "cp2", "ep2", "dp2", "tp2ep2", "tp2pp2")), wrong("single"), wrong("pp2"))
    assert found.sentence == (
        "2 of 8 cases fail (single and pp2), and no property tells them from the others: not decided, "
        "first at Layer 0 Attention Output (relative error 7.0e-01)"
    )
    assert (found.groups, found.certain) == (("undecided",), False)


def test_two_causes_are_said_if_one_does_not_explain_all() -> None:
    """Sorted by the check that is wrong first."""
    cases = [sound("single"), sound("pp2"), sound("dp2")]
    cases += [wrong("tp2", OUTPUT, kind="sharding"), wrong("tp2pp2", OUTPUT, kind="sharding"), wrong("ep2", ROUTED)]
    found = told(*cases)
    assert found.sentence.startswith("2 causes: Every layout with tp fails (tp2 and tp2pp2) and none without: tensor")
    assert (
        "; Every layout with ep fails (ep2) and none without: expert parallelism in the forward pass, first at"
        in found.sentence
    )
    assert found.groups == ("tensor parallelism", "expert parallelism")
    assert found.certain


def test_a_layouts_own_failure_is_told_beside_the_models() -> None:
    """What is wrong on one rank is behind it in the flow of data."""
    cases = [wrong("single", ROUTED), wrong("pp2", ROUTED, kind="modelling")]
    cases += [wrong("tp2", OUTPUT, kind="sharding"), wrong("tp2pp2", OUTPUT, kind="sharding")]
    found = told(*cases)
    assert found.groups == ("modelling", "tensor parallelism")
    assert found.sentence.startswith("2 causes: 2 cases fail (single and pp2): the model itself")


def test_a_layout_that_fails_where_one_rank_does_is_no_other_cause() -> None:
    """That several ranks make another error of it than one does not matter."""
    found = told(wrong("single", ROUTED), wrong("tp2", ROUTED, kind="sharding"), wrong("ep2", ROUTED, kind="sharding"))
    assert (found.groups, found.certain) == (("modelling",), True)


def test_sequence_parallelism_is_told_from_tensor_parallelism_where_one_goes_without() -> None:
    """A model without experts."""
    found = told(sound("single"), sound("tp2nosp"), sound("pp2"), wrong("tp2"), wrong("tp2pp2"))
    assert found.groups == ("sequence parallelism",)
    assert found.sentence.startswith("Every layout with tp and sequence parallelism fails (tp2 and tp2pp2) and none without:")
    whole = told(sound("single"), sound("tp2"), sound("pp2"), wrong("tp2nosp"), wrong("tp2pp2nosp"))
    assert whole.groups == ("tensor parallelism",)
    assert whole.sentence.startswith("Every layout with tp and no sequence parallelism fails")


def test_a_case_that_decides_is_one_that_the_preset_can_have() -> None:
    """Tiny has experts, so that tp2nosp is none of its layouts; of a checkpoint nothing is known here."""
    case = told(sound("single"), sound("pp2"), wrong("tp2", ROUTED))
    assert "tp2etp1" in case.deciding
    own = [
        replace(one, properties={**one.properties, "preset": "own"})
        for one in (sound("single"), sound("tp2"), wrong("pp2vpp2"))
    ]
    assert told(*own).deciding.startswith("To decide, run pp2:")
    odd = [
        replace(one, properties={**one.properties, "batch_size": "3", "micro_batch_size": "1"})
        for one in (sound("single"), sound("tp2"), wrong("ep2", GRADIENT))
    ]
    assert told(*odd).deciding == "To decide, run tp2ep2: if it fails, the cause is expert parallelism, else data parallelism"


def test_the_options_of_the_failing_case_stay_in_the_case_that_decides() -> None:
    found = told(sound("single"), sound("pp2"), wrong("tp2+full", GRADIENT, kind="sharding"))
    assert found.deciding.startswith("To decide, run tp2etp1+full: ")
