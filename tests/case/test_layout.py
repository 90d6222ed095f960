"""Layouts: names, degrees, ranks."""

from __future__ import annotations

import pytest

from validation.case.errors import UsageError
from validation.case.layout import Layout

NAMES = (
    "single",
    "tp2",
    "tp2pp2",
    "pp2vpp2",
    "tp2ep2",
    "ep2etp2",
    "tp2etp1",
    "cp2dp2",
    "tp2nosp",
    "dp1",
    "tp2pp2vpp2ep4etp1cp2dp2nosp",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_reads_back_as_itself(name: str) -> None:
    """`parse` and `name` are each other's inverse."""
    assert Layout.parse(name).name == name


def test_a_name_gives_the_degrees_it_says() -> None:
    """Each token sets its own degree, vpp and etp are not taken for pp and tp."""
    layout = Layout.parse("tp2pp3vpp4ep5etp6cp7dp8")
    assert layout == Layout(tp=2, pp=3, vpp=4, ep=5, etp=6, cp=7, dp=8)


@pytest.mark.parametrize("name", ["", "tp", "tp0", "2tp", "tp2x", "xx2", "tp-2", "TP2", "tp2 pp2", "tp2.5"])
def test_what_is_no_layout_is_refused_with_an_example(name: str) -> None:
    """A wrong name is answered with how one is written."""
    with pytest.raises(UsageError, match="such as tp2"):
        Layout.parse(name)


def test_a_degree_is_given_once() -> None:
    """tp2tp4 is a slip, not tp4."""
    with pytest.raises(UsageError, match="tp twice"):
        Layout.parse("tp2tp4")


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("single", 1),
        ("tp2", 2),
        ("ep2", 2),
        ("tp2ep2", 2),
        ("tp2ep2etp2", 4),
        ("tp2ep4", 4),
        ("pp2vpp2", 2),
        ("cp2dp2", 4),
        ("cp2ep2", 2),
    ],
)
def test_ranks_are_the_smallest_that_hold_the_experts(name: str, ranks: int) -> None:
    """Dp left open grows until the expert ranks fit, and no further."""
    assert Layout.parse(name).ranks == ranks


def test_experts_follow_tp_until_they_are_spread() -> None:
    """Etp left open is tp, and 1 once ep spreads whole experts; given, it is what was given."""
    assert Layout.parse("tp4").expert_tp == 4
    assert Layout.parse("tp4ep2").expert_tp == 1
    assert Layout.parse("tp4ep2etp2").expert_tp == 2


def test_sequence_parallelism_comes_with_tp_and_can_be_turned_off() -> None:
    """It means nothing without tp."""
    assert [Layout.parse(name).uses_sequence_parallel for name in ("single", "tp2", "tp2nosp")] == [False, True, False]


def test_degrees_given_on_the_side_replace_those_of_the_name() -> None:
    """None leaves a degree as it is."""
    assert Layout.parse("tp2").with_degrees(tp=None, pp=2) == Layout(tp=2, pp=2)
