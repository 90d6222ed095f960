"""The heat map's words: how a testsuite is called, which character a ratio has, what a cell holds, and what is left out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ci import heat
from ci.escape import annotation, markdown, plain
from ci.expected import Expected
from ci.junit import Check, Suite
from tests.ci.green import EXPECTED, SUITE


def with_ratio(ratio: float, module: str = "test_mla", status: str = "pass") -> Check:
    properties = {"rel_error": repr(ratio * 0.5), "tolerance": "0.5", "ranks": "0"}
    return Check(f"validation.checks.{module}", f"{ratio}", status, properties=properties)


def suite(*checks: Check) -> Suite:
    return replace(SUITE, checks=checks)


@pytest.mark.parametrize(
    ("ratio", "character"),
    [
        (0.0, "▁"),
        (1e-5, "▁"),
        (1.1e-5, "▂"),
        (1e-4, "▂"),
        (1e-3, "▃"),
        (1e-2, "▄"),
        (0.1, "▅"),
        (0.3, "▆"),
        (1.0, "▇"),
        (1.01, "█"),
        (math.inf, "█"),
        (math.nan, "█"),
    ],
)
def test_a_step_belongs_to_what_is_below_it(ratio: float, character: str) -> None:
    """Above the limit, and what is no number, is the last."""
    assert heat.block(ratio) == character


def test_what_is_no_number_is_worse_than_any() -> None:
    assert heat.badness(math.nan) == math.inf
    assert heat.badness(0.5) == 0.5


@pytest.mark.parametrize(
    ("checks", "cell"),
    [
        ((), ""),
        ((with_ratio(0.5, "test_moe"),), ""),
        ((with_ratio(0.001), with_ratio(0.25)), "▆ 0.2"),
        ((with_ratio(4e-5),), "▂ 4e-05"),
        ((with_ratio(2.0, status="fail"), with_ratio(0.5)), "✗ 1 █ 2"),
        ((with_ratio(0.5), with_ratio(0.5, status="error"), with_ratio(0.5, status="known")), "? 1 ◆ 1 ▇ 0.5"),
        ((with_ratio(0.5, status="error"), with_ratio(0.25, status="error")), "? 2"),
        ((replace(with_ratio(0.0), properties={}),), "="),
        ((replace(with_ratio(0.0), properties={"rel_error": "0.0", "tolerance": "0.0"}),), "="),
    ],
)
def test_a_cell_says_what_did_not_pass_and_how_near_the_worst_is(checks: tuple[Check, ...], cell: str) -> None:
    """Of its component alone; the equal are said to be where nothing else is."""
    assert heat._cell(suite(*checks), "mla") == cell


@pytest.mark.parametrize(
    ("changed", "title"),
    [
        ({}, "tiny / tp2 / fp64 / local / gloo"),
        ({"session": "a"}, "a: tiny / tp2 / fp64 / local / gloo"),
        ({"properties": {"preset": "mini", "isolated": "True"}}, "mini / ? / ? / ? / ? / isolated"),
        ({"properties": {"preset": "mini", "isolated": "False"}}, "mini / ? / ? / ? / ?"),
        ({"ranks": 0}, SUITE.name),
        ({"ranks": 0, "session": "a"}, SUITE.name),
    ],
)
def test_a_testsuite_is_called_by_its_case(changed: dict[str, object], title: str) -> None:
    """The self-test, which has no ranks of its own, by its name."""
    assert heat.title(replace(EXPECTED, **changed)) == title  # type: ignore[arg-type]


def test_a_component_is_the_module_of_its_checks() -> None:
    assert heat.component(Check("probe_gradients", "a", "pass")) == "probe gradients"
    assert heat.component(Check("mine", "a", "pass")) == "mine"


def of(name: str, *checks: Check) -> tuple[Expected, Suite]:
    return replace(EXPECTED, name=name, ranks=0), suite(*checks)


def test_the_map_is_a_table_with_its_legend() -> None:
    """A column for each component in the order in which they come."""
    found = heat.table([of("a", with_ratio(0.5), with_ratio(0.001, "test_moe")), of("b", with_ratio(0.25, "test_moe"))])
    assert found.splitlines()[:4] == [
        "| testsuite | <code>mla</code> | <code>moe</code> |",
        "|---|---|---|",
        "| <code>a</code> | ▇ 0.5 | ▃ 0.001 |",
        "| <code>b</code> |  | ▆ 0.2 |",
    ]
    assert found.endswith(f"\n\n{heat.LEGEND}")


def test_red_rows_come_first_and_what_is_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known bug is not red."""
    monkeypatch.setattr(heat, "MOST_ROWS", 2)
    rows = [of("a", with_ratio(0.5)), of("b", with_ratio(0.5, status="known")), of("c", with_ratio(2.0, status="fail"))]
    found = heat.table(rows).splitlines()
    assert [line.split(" | ")[0] for line in found[2:4]] == ["| <code>c</code>", "| <code>a</code>"]
    assert "1 more testsuite is left out." in found
    assert "left out" not in heat.table(rows[:2])


def test_there_are_thirty_columns_at_most() -> None:
    """And a long name of one is cut, as is that of a testsuite."""
    checks = [with_ratio(0.5, f"test_{'x' * 60}{at:02}") for at in range(31)]
    head, _, row, *_ = heat.table([of("n" * 130, *checks)]).replace("&#8230;", "…").splitlines()
    assert head.count("<code>") == 30
    assert f"<code>{'x' * 39}…</code>" in head
    assert row.startswith(f"| <code>{'n' * 119}…</code> | ")


@pytest.mark.parametrize(
    ("text", "longest", "shown"),
    [
        ("abcd", 4, "abcd"),
        ("abcde", 4, "abc…"),
        ("a" + " " * 14 + "b", 4, "a b"),
        ("a" + " " * 15 + "b", 4, "a…"),
        ("a::b", 4, "a::b"),
        ("::b", 9, ": :b"),
        ("##[x", 9, "# #[x"),
        ("x ##[x ##[", 20, "x # #[x # #["),
    ],
)
def test_text_is_cut_where_it_is_longer_than_it_may_be(text: str, longest: int, shown: str) -> None:
    """Or where so much white space was taken out that something may lie behind it."""
    assert plain(text, longest) == shown
    assert markdown("a" * 5, 4) == "<code>aaa&#8230;</code>"


def test_an_annotation_s_title_is_cut_sooner_than_its_message() -> None:
    title, _, message = annotation("error", "t" * 400, "m" * 400).removeprefix("::error title=").partition("::")
    assert (len(title), len(message)) == (120, 300)
