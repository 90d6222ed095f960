"""Numbers, names and orders of the page at their edges: a table that somebody has approved, and limits of how much it shows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ci.drift import Drift
from ci.junit import Check
from ci.page import about, cause, chart, data, place, plot, read, trend, unscripted
from ci.page.history import History, Point
from ci.page.run import badness, drifted, judged, labels, level, measure, share, short
from ci.page.text import anchor, badge, command, glyph, link, linked, said, scrolled, text
from tests.ci.approved import same_as_approved
from tests.ci.page_runs import layers, with_properties
from tests.ci.runs import check, suite

ERRORS = ("", "0.0", "-1.0", "1e-10", "1.0001e-10", "1e-11", "9.9e-11", "1.1e-17", "1e-9", "8e-10", "1e-7", "9.99e-8", "0.1")
MORE = ("1e-12", "1e-13", "9.994e-8", "1.0e-7", "2e-7", "nan", "inf", "1e-19", "1e-18", "1.1e-18")
FLOORED = ("", "0.0", "0.01", "0.04", "0.02", "0.08", "0.081", "0.16", "0.64", "0.65", "5.2", "42", "nan", "1e-9", "39.9", "41")
STATUSES = ("pass", "known", "unevaluated", "missing", "error", "fail")
VALUES = (0.0, -1.0, 1e-300, 1e-5, 0.0123, 1.0, 9.99, 100.0, 12345.6, 1e15, 1e16, 1e300, math.inf, -math.inf, math.nan, 2.5e14)


def _checks() -> Iterator[Check]:
    for status in STATUSES:
        for error in (*ERRORS, *MORE) if status in ("pass", "fail") else ERRORS[:4]:
            yield check(status=status, rel_error=error, tolerance="1e-10")
        for error in FLOORED if status in ("pass", "fail") else FLOORED[:4]:
            yield check(status=status, rel_error=error, tolerance="0.08", floor="0.04")
        for limit in ("", "0.0", "-1.0") if status in ("pass", "fail") else ("0.0",):
            yield check(status=status, rel_error="0.0", tolerance=limit)
            yield check(status=status, rel_error="0.5", tolerance=limit)
        yield check(status=status, rel_error="0.02", tolerance="0.08", floor="0.0")


def _shares() -> Iterator[str]:
    for one in _checks():
        numbers = ", ".join(one.properties.get(name, "") or "none" for name in ("rel_error", "tolerance", "floor"))
        yield f"{one.status}: {numbers}: {share(one)} {short(one)!r} {measure(one)!r} level {level(one)} {badness(one)}"


def _axes() -> Iterator[str]:
    for values in ((), (1.0,), (10.0,), (0.5, 3.0), (1e-12, 1e-3), (1e-300, 1e300), (2e-5, None, math.inf, 0.0, math.nan)):
        axis = plot.Axis.of(values, 200.0, 12.0)
        yield f"{values}: {axis} ticks {axis.ticks} at {[round(axis.at(value), 3) for value in VALUES]}"
    for low, high in ((-0.5, 0.5), (0.2, 4.2), (0, 4), (0, 5), (0, 8), (0, 9), (-3.7, 5.5)):
        yield f"ticks from {low} to {high}: {plot.Axis(low, high, 0.0, 1.0).ticks}"


def _titles() -> Iterator[str]:
    for step in ("", "Step 1 "):
        for part in ("", "Layer 12 ", "MTP 3 "):
            for what in ("Value", "Router Weight", "Gradient Norm", "Value Gradient", "Router Weight Gradient", "Nothing"):
                yield f"{step}{part}{what}: {place.place(f'{step}{part}{what}')}"
    for title in (
        "Router Weight First Moment",
        "Router Weight Second Moment",
        "Router Weight Gradient Second Moment",
        "",
        "Step 12345 Value",
        "Layer 12345 Value",
    ):
        yield f"{title}: {place.place(title)}"
    for name in ("mla", "probe_gradients", "my.module.test_own_check", "test_", "", "a.", "x"):
        yield f"component {name!r}: {place.component(name)!r} {place.component_order(place.component(name))}"
    for view in ("Forward", "Probe gradients", "Parameter gradients", "Weights", "Step 12"):
        yield f"view {view}: {place.view_order(view)}"
    for column in ("Model", "0", "12", "MTP 0", "MTP 12"):
        yield f"column {column}: {place.column_order(column)}"
    yield from (f"row {row}: {place.row_order(row)}" for row in place._ROWS)


def _texts() -> Iterator[str]:
    for words in ('a <b> & "c"', "see https://example.com/a?b=1&c, and (https://example.com/b).", "http://a", "https://", ""):
        yield f"{words!r}: {text(words)} {linked(words)}"
    for status in STATUSES:
        yield f"{status}: {glyph(status)} {badge(status)} {said(check('a', status))}"
    yield link("https://a/?b&c", "d & e") + command("one") + command("one\ntwo <") + scrolled("<p>", 'a "b"')
    yield f"{anchor('a/b c', 'd/e#')} {said(replace(check('a', 'fail'), message='FAIL: b - c'))}"


def _numbers() -> Iterator[str]:
    for value in (None, *VALUES):
        yield f"{value}: {plot.digits(value)} {data._short(value)!r}"
    for value in (1.23456, 0.000123456, 123456.0, 1234567.5, 999999.5, -2.0, 1e14, 9.99e14, 123456789012345.0):
        yield f"{value}: {plot.digits(value)} {data._short(value)!r}"
    some = (0.0, 1e-5, 1.9e-5, 2e-5, math.inf)
    yield from (f"from {then} to {now}: {trend._change(then, now)}" for then in some for now in some)


def test_numbers_names_and_orders_are_the_approved_ones() -> None:
    """Shares of limits at every edge, axes, cells of titles, texts and changes."""
    sections = {"shares": _shares, "axes": _axes, "titles": _titles, "texts": _texts, "numbers": _numbers}
    lines = [line for name, found in sections.items() for line in (f"# {name}", *found())]
    same_as_approved("numbers.txt", "\n".join(lines))


@pytest.mark.parametrize(("checks", "more"), [(3, False), (4, True)])
def test_a_list_without_scripts_ends_at_its_limit(monkeypatch: pytest.MonkeyPatch, checks: int, more: bool) -> None:
    """At the limit all are there; beyond it a sentence counts the rest. A long message is cut."""
    monkeypatch.setattr(unscripted, "MOST_LISTED", 3)
    monkeypatch.setattr(unscripted, "_LONGEST", 8)
    found = unscripted.listed(judged([suite(checks=tuple(check(f"Layer {n} Value", "fail") for n in range(checks)))]))
    assert found.count("<tr><td>") == 3
    assert "<bdi>relative</bdi>" in found
    assert found.endswith("</tbody></table><p>1 more are in the JUnit files.</p>" if more else "</tbody></table>")


@pytest.mark.parametrize(("reasons", "more"), [(2, ""), (3, "<li>and 1 more, which the gate's log has</li>")])
def test_reasons_end_at_their_limit(monkeypatch: pytest.MonkeyPatch, reasons: int, more: str) -> None:
    monkeypatch.setattr(cause, "MOST_REASONS", 2)
    found = cause._reasons(replace(judged([]), reasons=tuple("abc"[:reasons])))
    items = f"<li><bdi>a</bdi></li><li><bdi>b</bdi></li>{more}"
    assert found == f'<ul class="reasons" aria-label="Other reasons">{items}</ul>'


@pytest.mark.parametrize(("dots", "most"), [(4, 4), (0, 3)])
def test_a_picture_has_dots_as_far_as_they_are_no_band(monkeypatch: pytest.MonkeyPatch, dots: int, most: int) -> None:
    monkeypatch.setattr(chart, "_MOST_DOTS", most)
    found = chart.chart(judged([suite(checks=layers(("1e-15", "2e-15", "3e-15", "4e-15")))]))
    assert found.count("<circle") == dots


@pytest.mark.parametrize(("count", "shown"), [(2, ["0", "1"]), (3, ["0", "2"]), (4, ["0", "2"]), (5, ["0", "3"])])
def test_a_picture_numbers_as_many_layers_as_have_room(monkeypatch: pytest.MonkeyPatch, count: int, shown: list[str]) -> None:
    monkeypatch.setattr(chart, "_MOST_LABELS", 2)
    found = "".join(chart._layers(tuple(range(count)), 0, count))
    assert [one for one in ("0", "1", "2", "3", "4") if f">{one}</text>" in found] == shown


def test_a_picture_takes_its_first_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as it may have."""
    monkeypatch.setattr(chart, "MOST_CHECKS", 3)
    found = chart.chart(judged([suite(checks=layers(("1e-15", "2e-15", "3e-15", "4e-15")))]))
    assert found.count('<tr><th scope="row">') == 3


def test_a_trend_takes_its_first_components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trend, "MOST_ROWS", 2)
    of = Point("a", {(name, "fp64"): 1e-5 for name in ("Output", "MLA", "Router")})
    found = trend.trend(History((of, of)))
    assert [name for name in ("MLA", "Router", "Output") if f"<bdi>{name}</bdi></th>" in found] == ["MLA", "Router"]


@pytest.mark.parametrize(
    ("text", "cut"), [("x" * 5, "x" * 5), ("x" * 6, "xxxxx… (1 more character in the JUnit file)"), ("", "")]
)
def test_a_long_text_is_cut_with_how_much_is_left(text: str, cut: str) -> None:
    assert data._cut(text, 5) == cut


def _words(monkeypatch: pytest.MonkeyPatch, room: int, *messages: str) -> list[Any]:
    """What the data has of failing checks where there is this much room for words."""
    monkeypatch.setattr(data, "ROOM", room)
    monkeypatch.setattr(data, "SHORT", 3)
    checks = tuple(Check("mla", "a", "fail", message=one, details="line\n more", properties={"note": "n"}) for one in messages)
    return list(data._Data(judged([suite(checks=checks)]))._more({0, 1, 2}).values())


def test_words_are_cut_when_their_room_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that goes beyond it is whole; behind it nothing but the beginning of what is wrong is there."""
    says, details = {"says": "12345"}, {"says": "12345", "details": "more"}
    whole = {**details, "other": [["note", "n"]]}
    assert _words(monkeypatch, 18, "12345", "678") == [whole, {**whole, "says": "678"}]
    assert _words(monkeypatch, 17, "12345", "678") == [whole, {**details, "says": "678"}]
    assert _words(monkeypatch, 13, "12345", "678") == [whole, {"says": "678"}]
    assert _words(monkeypatch, 10, "12345", "678", "6789") == [whole, {"says": "678"}, {"says": "678… (more in JUnit)"}]
    assert _words(monkeypatch, 9, "12345") == [details]
    assert _words(monkeypatch, 6, "12345") == [details]
    assert _words(monkeypatch, 5, "12345") == [says]
    assert _words(monkeypatch, 0, "12345") == [{"says": "123… (more in JUnit)"}]


def test_without_a_message_the_first_line_of_the_details_says_what_is_wrong() -> None:
    one = Check("mla", "a", "fail", details="FAIL: a - wrong\n  stack\n")
    (found,) = data._Data(judged([suite(checks=(one,))]))._more({0, 1, 2}).values()
    assert found == {"says": "wrong", "details": "stack"}


def test_labels_say_as_much_as_tells_them_apart() -> None:
    """Precision, implementation, preset and transport in this order, and the name if they do not."""
    one = suite("tp2")
    others = [with_properties(one, **{name: "b"}) for name in ("precision", "implementation", "preset", "transport")]
    named = [replace(of, name=f"case {number}") for number, of in enumerate((one, *others))]
    bare = replace(one, name="bare", properties={})
    assert labels((*named, bare)) == (
        "tp2 fp64 local tiny gloo",
        "tp2 b",
        "tp2 fp64 b",
        "tp2 fp64 local b",
        "tp2 fp64 local tiny b",
        "bare",
    )
    assert labels((one, with_properties(one, preset="?"))) == ("tp2 tiny", "tp2 ?")
    without = replace(one, properties={"arrangement": "tp2"})
    assert labels((one, without)) == ("tp2 fp64", "tp2 ?")
    assert labels((named[0], replace(named[0], name="other"))) == ("case 0", "other")


def test_files_beyond_the_limit_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """At the limit nothing is told."""
    for name in ("a.xml", "b.xml", "c.xml"):
        (tmp_path / name).write_text("<testsuite", encoding="utf-8")
    monkeypatch.setattr(read, "MOST_FILES", 2)
    found, unreadable = read.suites(tmp_path)
    assert (found, len(unreadable), unreadable[2]) == ([], 3, "1 more file, which was not read")
    monkeypatch.setattr(read, "MOST_FILES", 3)
    assert len(read.suites(tmp_path)[1]) == 3
    assert read.suites(tmp_path / "none") == ([], [])


def test_what_has_drifted_decides_nothing_that_is_not_decided() -> None:
    assert drifted(judged([]), Drift(vanished=["a"])).verdict == "error"
    assert drifted(judged([suite(checks=(check(),))]), Drift(vanished=["a"])).verdict == "fail"


@pytest.mark.parametrize("moved", [None, Drift(remarks=["a"])])
def test_a_run_that_has_not_drifted_stays_as_it_is(moved: Drift | None) -> None:
    run = judged([suite(checks=(check(),))])
    assert drifted(run, moved) is run


def test_a_number_that_json_does_not_know_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        data.as_json(judged([replace(suite(checks=(check(),)), seconds=math.inf)]))


def test_a_command_that_is_not_that_of_its_case_stands_whole() -> None:
    """As it runs elsewhere."""
    one = check(reproduce="python -m validation run --layouts a --megatron-path /m")
    assert data._again(one, suite(checks=())) == 'python -m validation run --layouts a --megatron-path "$MEGATRON"'


def test_two_runs_are_told_from_the_first_to_the_last() -> None:
    two = [
        with_properties(suite(layout, (check(),)), run=f"2026-01-3{day}T11:00:00.5-a")
        for layout, day in (("tp2", 1), ("pp2", 0))
    ]
    assert "<bdi>2, from 2026-01-30T11:00:00 to 2026-01-31T11:00:00</bdi>" in about.about(judged(two))
