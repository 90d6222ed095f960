"""Words behind a layout that exclude each other are refused: the last one alone would count."""

from __future__ import annotations

import pytest

from validation.case import arrangement
from validation.case.errors import UsageError
from validation.case.training import Training


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("static", "dynamic"),
        ("packed", "padded"),
        ("aux", "seqaux"),
        ("full", "selective"),
        ("1-4", "2-3"),
        ("vocab128", "vocab256"),
        ("step-evaluate-step", "step-save-step"),
    ],
)
def test_two_words_of_one_option(one: str, other: str) -> None:
    """In whatever order they stand, both are named; other words between them change nothing."""
    for text in (f"pp2+{one}+{other}", f"pp2+{other}+distributed+{one}"):
        with pytest.raises(UsageError, match="exclude each other; leave one of them out") as refused:
            arrangement.parse(text, Training())
        assert f"+{one}" in str(refused.value)
        assert f"+{other}" in str(refused.value)


def test_a_word_against_the_command_and_words_in_any_order() -> None:
    """A layout's word goes before the option of the command, and words of several options may stand in any order."""
    _, training, _ = arrangement.parse("single+dynamic", Training(inference="static"))
    assert training.inference == "dynamic"
    for text in ("tp2+selective+recompute_modules=null", "tp2+recompute_modules=null+selective"):  # Megatron-LM's own modules
        layout, training, _ = arrangement.parse(text, Training())
        assert (training.recompute, dict(training.settings)) == ("selective", {"model.recompute_modules": None})
        assert arrangement.written(layout, training, None) == "tp2+selective+recompute_modules=null"
    several = "pp2+full+distributed+moe_permute_fusion+1-4+packed"
    assert arrangement.parse(several, Training())[1].recompute == "full"


@pytest.mark.parametrize("said", ["cp_comm_type=a2a+p2p", 'cp_comm_type="a2a+p2p"', 'model.cp_comm_type="a2a+p2p"'])
def test_a_value_with_a_plus_sign_is_one_word(said: str) -> None:
    """And what it is written as is read as the same."""
    sizes = "hierarchical_context_parallel_sizes=[2,2]"
    layout, training, _ = arrangement.parse(f"cp4+{said}+distributed+{sizes}", Training())
    assert dict(training.settings)["model.cp_comm_type"] == "a2a+p2p"
    written = arrangement.written(layout, training, None)
    assert arrangement.parse(written, Training()) == (layout, training, None)


def test_a_quote_that_is_open_is_no_word() -> None:
    with pytest.raises(UsageError, match="is no value of a setting"):
        arrangement.parse('cp4+cp_comm_type="a2a+distributed', Training())
