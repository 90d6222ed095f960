"""What happens between steps, as a word behind a layout."""

from __future__ import annotations

import pytest

from validation.case import life, preflight
from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.life import Event
from validation.case.steps import stepped
from validation.reference import store
from validation.run.options import parsed
from validation.run.reproduce import alone


def case(layout: str, *words: str) -> Case:
    (found,) = parsed(["--layouts", layout, *words]).cases
    return found


def test_a_life_is_read_from_its_word() -> None:
    """A layout behind resume is where the run goes on."""
    events = (
        Event("load"),
        Event("step"),
        Event("evaluate"),
        Event("resume", "tp2pp2"),
        Event("step"),
        Event("save"),
        Event("step"),
    )
    word = "load-step-evaluate-resume-tp2pp2-step-save-step"
    assert life.parse(word) == events
    assert life.written(events) == word
    assert life.in_one_layout(word) == "load-step-evaluate-resume-step-save-step"
    assert [layout.name for layout in life.layouts(word)] == ["tp2pp2"]
    assert life.parse("") == ()
    assert life.written(life.parse("step-step24-resume-step-step")) == "step25-resume-step2"
    assert life.steps("step25-resume-step2") == 27


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("step-step", "has steps alone; --steps 2 says that"),
        ("step-evaluate", "what comes behind the last step is not compared"),
        ("evaluate-step", "begin and end with step"),
        ("step-load-step", "load comes first"),
        ("step-rest-step", "rest is no part of one; join load, step, evaluate, overflow, save, resume with -"),
        ("step-overflow-evaluate-step", "put it directly before one"),
        ("step-resume-xy2-step", "layout 'xy2' is not one"),
    ],
)
def test_what_is_no_life_is_refused(word: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        case(f"tp2+{word}")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("tp2+step-resume-tp4-step", "goes on in tp4, which has 4 ranks, and tp2 has 2"),
        ("tp3+step-resume-pp3-step", "tp3 does not divide"),
        ("pp2+step-resume-cp2tp16-step", "goes on in tp16cp2, which has 32 ranks"),
        (
            "dp2+distributed+ddp.overlap_grad_reduce+ddp.overlap_param_gather+step-save-step",
            "a life has no overlap_param_gather",
        ),
    ],
)
def test_where_no_run_can_go_on_is_refused(layout: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        preflight.check(case(layout), max_ranks=64, gpus=None, memory=None)
    assert said in str(refused.value)


def test_a_life_says_how_many_steps_it_has() -> None:
    found = case("tp2+step-evaluate-step-resume-pp2-step")
    assert found.training.steps == 3
    assert found.label == "tp2+step-evaluate-step-resume-pp2-step"
    with pytest.raises(UsageError, match="takes 2 steps and --steps asks for 3; leave --steps out"):
        case("tp2+step-save-step", "--steps", "3")


def test_a_life_changes_no_number() -> None:
    """Its reference and its checks are those of the steps alone; so is the case that tells a sharding bug from another."""
    lived, plain = case("tp2+step-resume-pp2-step"), case("tp2", "--steps", "2")
    assert store.key(lived) == store.key(plain)
    assert list(stepped(lived)) == list(stepped(plain))
    assert alone(lived).training.life == "step-resume-step"
    assert Case.from_json(lived.to_json()) == lived
    assert "life" not in plain.to_json()
