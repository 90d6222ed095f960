"""What layouts have in common, and what a pipeline string may say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.recipe import pipeline
from validation.recipe.pipeline import EVEN, Chunk, Split
from validation.recipe.signature import Full, Options, distance, signature

MODEL = replace(TINY.model, num_hidden_layers=12, first_k_dense_replace=3)


def parts(layout: str, split: Split = EVEN, **numbers: int) -> dict[str, str]:
    return dict(signature(Full(replace(MODEL, **numbers), Layout.parse(layout), Options(split))).parts)  # type: ignore[arg-type]


def test_a_signature_says_size_place_and_share() -> None:
    """Two tensor ranks inside four expert ranks; each rank has several experts."""
    found = parts("tp2ep4pp3")
    assert (found["size of tp"], found["size of ep"], found["size of edp"], found["size of pp"]) == (
        "two",
        "more",
        "one",
        "more",
    )
    assert found["tp to ep"] == "inside"
    assert (found["experts of a rank"], found["groups of experts"]) == ("several", "some are chosen")
    assert found["sequence parallelism"] == "yes"


def test_the_border_of_dense_and_expert_layers_is_seen() -> None:
    """Three dense layers in stages of two end inside the second stage, in stages of three between two, in one of six inside."""
    assert "a stage with dense+experts" in parts("pp3vpp2")
    assert "a stage with dense" in parts("pp4", first_k_dense_replace=6)
    assert {"a stage with embedding+dense", "a stage with experts", "a stage with experts+loss"} <= parts("pp4").keys()
    assert "a stage with embedding+dense+experts" in parts("pp2")


def test_a_stage_of_mtp_alone_is_another_kind() -> None:
    found = parts("pp5", Split("E|t*6|t*6|m|L"), num_nextn_predict_layers=1)
    assert {"a stage with mtp", "a stage with loss", "a stage with embedding"} <= found.keys()
    assert found["MTP layers"] == "one"


def test_one_expert_a_rank_is_not_several() -> None:
    assert parts("ep16")["experts of a rank"] == "one"
    assert parts("ep8")["experts of a rank"] == "several"


@pytest.mark.parametrize(
    ("nearer", "further"),
    [("tp2ep4", "ep2"), ("tp2ep4", "tp2ep2"), ("tp2ep4", "ep4"), ("tp2ep4", "tp2ep4dp4"), ("tp2ep4", "tp2pp2ep4")],
)
def test_a_missing_group_is_further_away_than_a_short_one(nearer: str, further: str) -> None:
    """What stands for tp2 dp32 ep64, where experts are spread over tensor ranks and none is on two ranks."""
    full = signature(Full(replace(MODEL, n_routed_experts=256), Layout(tp=2, ep=64, dp=32)))
    near, far = (signature(Full(MODEL, Layout.parse(name))) for name in (nearer, further))
    assert 0 < distance(full, near) < distance(full, far)


def test_equal_signatures_are_at_distance_0_and_the_others_are_not() -> None:
    one, two = (signature(Full(MODEL, Layout.parse(name))) for name in ("ep3", "ep4"))
    assert distance(one, one) == 0
    assert one == two
    assert distance(one, signature(Full(MODEL, Layout.parse("ep2")))) > 0


def test_chunks_stand_in_the_order_of_the_model() -> None:
    """Of pp2vpp2, ranks 0, 1, 0, 1."""
    found = pipeline.chunks(replace(MODEL, num_hidden_layers=8), Layout(pp=2, vpp=2))
    assert found == (
        Chunk(True, 2, 0, 0, False),
        Chunk(False, 1, 1, 0, False),
        Chunk(False, 0, 2, 0, False),
        Chunk(False, 0, 2, 0, True),
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Ett|tL", "has 3 layers and the model has 4; write as many t"),
        ("Ett|ttmL", "has 1 MTP layer and the model has 0"),
        ("Ett|tt|L", "has 3 stages; pp * vpp is 2"),
        ("tt|ttEL", "write E first"),
        ("Ettm|ttL", "write E first, then layers (t), MTP layers (m), and L last"),
        ("Exx|ttL", "x is no part of one"),
        ("Et*9999|t*9999L", "is too long"),
        ("", "4 layers, 3 of them in the first do not fill the 2 stages with 3 virtual stages each"),
    ],
)
def test_a_pipeline_string_that_does_not_fit_is_refused(text: str, sentence: str) -> None:
    """With what is wrong, and what would work."""
    split = Split(text) if text else Split(first=3)
    with pytest.raises(UsageError) as caught:
        pipeline.chunks(replace(MODEL, num_hidden_layers=4), Layout(pp=2, vpp=1 if text else 3), split)
    assert sentence in str(caught.value)


def test_alike_stages_are_summed_up() -> None:
    found = pipeline.chunks(MODEL, Layout(pp=4), Split(first=1, last=1))
    assert pipeline.summary(found) == "1, 2 x 5, 1"
    assert pipeline.written(found) == "Et|ttttt|ttttt|tL"
