"""pipeline_model_parallel_layout: it holds the model, or says what is wrong."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.pipeline_layout import FIELD, chunk_layers, embeddings_are_summed, given, it_holds_the_model
from validation.case.preset import TINY
from validation.case.training import Training


def case(layout: str, text: str | None, mtp: int = 0, stages: tuple[int, ...] = ()) -> Case:
    settings = () if text is None else ((f"model.{FIELD}", text),)
    model = replace(TINY.model, num_nextn_predict_layers=mtp)
    training = Training(settings=settings, stages=stages)
    return Case("tiny", model, Layout.parse(layout), "fp64", "local", "gloo", 1, 8, 2, 48, training=training)


@pytest.mark.parametrize(
    ("layout", "text", "mtp"),
    [
        ("pp2", "Et|tttL", 0),
        ("pp2", "E|ttttL", 0),
        ("pp2vpp2", "Ett|t||tL", 0),
        ("pp4", "Ett|tt|m|L", 1),
        ("pp2", "E(t)*2|t*2L", 0),
    ],
)
def test_what_holds_the_model_is_taken(layout: str, text: str, mtp: int) -> None:
    """Uneven stages, empty ones, and MTP layers or the loss alone."""
    assert it_holds_the_model(case(layout, text, mtp)) is None


@pytest.mark.parametrize(
    ("layout", "text", "mtp", "says"),
    [
        ("pp2", "Etttt|x", 0, "x is no part of one"),
        ("pp2", "Ett|t|tL", 0, "has 3 stages, and pp2 with vpp1 has 2"),
        ("pp2", "tt|Ettl", 0, "l is no part of one"),
        ("pp2", "tt|EttL", 0, "write E first"),
        ("pp2", "Ettt|tL", 1, "has 0 MTP layers and the model has 1; write as many m"),
        ("pp2", "Ettttt|L", 0, "has 5 layers and the model has 4; write as many t"),
    ],
)
def test_what_does_not_is_refused(layout: str, text: str, mtp: int, says: str) -> None:
    assert says in str(it_holds_the_model(case(layout, text, mtp)))


@pytest.mark.parametrize(
    ("layout", "text", "says"),
    [
        ("pp2vpp2", "Ett|t|tm|L", r"on stage 3, virtual stage 1 of pipeline rank 0\. .*; stage 4 works"),
        ("pp2vpp2", "Ett|ttm||L", r"on stage 2, virtual stage 0 of pipeline rank 1\. .*; stage 4 works"),
        ("pp3vpp2", "Ett|t||tm||L", "on stage 4, .*; stage 5 to 6 works"),
        ("pp3vpp2", "Ett|t||t|m|L", None),
        ("pp2vpp2", "Ett|t|t|mL", None),
        ("pp2", "Etttt|mL", None),
        ("pp4", "Ett|tt|m|L", None),
        ("single", "EttttmL", None),
    ],
)
def test_mtp_layers_stand_where_their_embedding_is_summed(layout: str, text: str, says: str | None) -> None:
    """In the last virtual stage of a rank that is not the first."""
    of = case(layout, text, mtp=1)
    assert it_holds_the_model(of) is None
    said = embeddings_are_summed(of)
    assert (said is None) == (says is None)
    assert says is None or re.search(says, str(said))


def test_the_layers_of_each_virtual_stage_are_counted() -> None:
    """Of a layout string, of uneven stages, and of even ones."""
    assert chunk_layers(case("pp2vpp2", "Ett|t||tL")) == (2, 1, 0, 1)
    assert chunk_layers(case("pp2", None, stages=(1, 3))) == (1, 3)
    assert chunk_layers(case("pp2vpp2", None)) == (1, 1, 1, 1)


def test_stages_are_said_once() -> None:
    assert "give one of them" in str(it_holds_the_model(case("pp2", "Et|tttL", stages=(1, 3))))


def test_without_a_layout_there_is_none() -> None:
    assert (given(case("pp2", None)), it_holds_the_model(case("pp2", None))) == (None, None)
