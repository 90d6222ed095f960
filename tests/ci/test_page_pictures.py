"""The pictures of the page: the error over the layers, and the trends over the runs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ci import cli, junit
from ci.diagnosis import Diagnosis
from ci.diagnosis.diagnosis import First
from ci.junit import Check, Suite
from ci.page.chart import chart
from ci.page.document import document
from ci.page.history import History, Point, history
from ci.page.plot import Axis, digits, line
from ci.page.run import Run, judged
from ci.page.trend import trend
from tests.ci.read_pages import HOSTILE, Read
from tests.ci.runs import check, suite
from validation.case.errors import UsageError

LIMIT = 1e-10


def layers(errors: Sequence[float], what: str = "Value", component: str = "mla", **properties: str) -> tuple[Check, ...]:
    """A check in each layer with this error."""
    statuses = ["fail" if error > LIMIT else "pass" for error in errors]
    numbers = enumerate(zip(errors, statuses, strict=True))
    return tuple(
        check(f"Layer {n} {what}", status, component, rel_error=repr(error), **properties) for n, (error, status) in numbers
    )


def points(text: str, kind: str) -> list[tuple[float, float]]:
    """The points of a line of a picture."""
    (path,) = re.findall(rf'<path class="{kind}" d="([^"]*)"', text)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def titles(text: str) -> list[str]:
    return re.findall("<title>(.*?)</title>", text)


# --- An axis ---


def test_an_axis_goes_by_powers_of_ten_with_what_has_no_logarithm_at_its_ends() -> None:
    axis = Axis.of([3e-12, None, 2e-5, math.inf, 0.0, math.nan], 100.0, 0.0)
    assert (axis.low, axis.high) == (-12, -4)
    assert [axis.at(value) for value in (1e-12, 1e-8, 1e-4)] == [100.0, 50.0, 0.0]
    assert [axis.at(value) for value in (0.0, 1e-20, math.inf, 1.0, math.nan)] == [100.0, 100.0, 0.0, 0.0, 0.0]
    assert axis.ticks == [-12, -10, -8, -6, -4]


@pytest.mark.parametrize(
    ("values", "ends", "ticks"),
    [([], (-1, 0), [-1, 0]), ([1.0], (0, 1), [0, 1]), ([1e-300, 1e300], (-300, 300), [-300, -150, 0, 150, 300])],
)
def test_an_axis_has_two_ends_and_at_most_five_labels(values: list[float], ends: tuple[int, int], ticks: list[int]) -> None:
    axis = Axis.of(values, 1.0, 0.0)
    assert ((axis.low, axis.high), axis.ticks) == (ends, ticks)


def test_a_line_is_broken_where_nothing_was_measured() -> None:
    axis = Axis(0, 2, 0.0, 100.0)
    assert line("a", [0, 1, 2, 3], [1.0, None, 10.0, 100.0], axis) == '<path class="a" d="M0.0 0.0 M2.0 50.0 L3.0 100.0"/>'
    assert line("a", [0], [None], axis) == ""


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "nothing"), (1.44e-5, "1.4e-5"), (0.7, "0.7"), (1.2e10, "1.2e10"), (math.inf, "inf"), (0, "0")]
)
def test_a_number_is_as_short_as_it_goes(value: float | None, shown: str) -> None:
    assert digits(value) == shown


def test_a_line_has_a_value_for_each_point() -> None:
    with pytest.raises(ValueError, match="zip"):
        line("a", [0, 1], [1.0], Axis(0, 2, 0.0, 100.0))


# --- The error over the layers ---


def test_layers_begin_on_the_left_whichever_the_first_is_and_limits_are_told_from_first_to_last() -> None:
    limits = {2: "1e-10", 3: "2e-10", 5: "4e-10"}
    checks = tuple(check(f"Layer {layer} Value", tolerance=limit) for layer, limit in limits.items())
    text = chart(judged([suite(checks=checks)]))
    assert "limit from 1e-10 to 4e-10" in text
    assert [x for x, _ in points(text, "limit-line")] == [48.0, 148.0, 348.0]


def test_the_picture_is_of_the_check_that_the_diagnosis_names_even_behind_another_failure() -> None:
    failing = suite(checks=(*layers([0.5, 0.5]), *layers([0.6, 0.6], "MLP Output", component="mlp")))
    run = judged([failing])
    first = First("mlp", "Layer 0 MLP Output", failing.name)
    assert "Dense MLP in tp2 (Forward)" in chart(replace(run, diagnosis=Diagnosis("a", ("b",), True, first=first)))
    assert "MLA in tp2 (Forward)" in chart(replace(run, diagnosis=None))


def test_of_two_checks_as_near_to_their_limits_the_first_is_shown() -> None:
    checks = (*layers([1e-15, 1e-15]), *layers([1e-15, 1e-15], "Value Gradient"))
    assert "MLA in tp2 (Forward)" in chart(judged([suite(checks=checks)]))


def test_two_checks_of_one_name_are_both_drawn() -> None:
    """In the order of the file."""
    text = chart(judged([suite(checks=(*layers([2e-15, 3e-15]), *layers([1e-15, 1e-15])))]))
    assert [title.partition(": ")[2] for title in titles(text)[:2]] == ["2e-15, limit 1e-10", "1e-15, limit 1e-10"]


def test_the_picture_shows_where_an_error_begins_and_the_limit_that_it_crosses() -> None:
    text = chart(judged([suite("pp2", layers([1e-15] * 4)), suite("tp2", layers([1e-15, 1e-14, 0.7, 0.8]))]))
    assert "MLA in tp2 (Forward)" in text
    errors, limits = points(text, "error-line"), points(text, "limit-line")
    assert len({y for _, y in limits}) == 1
    limit = limits[0][1]
    assert [y > limit for _, y in errors] == [True, True, False, False], "y grows downwards"
    assert [x for x, _ in errors] == sorted(x for x, _ in errors)
    assert titles(text)[2] == "Layer 2 Value: 0.7, limit 1e-10"
    assert 'aria-label="MLA in tp2: relative error from 1e-15 in layer 0 to 0.8 in layer 3; limit from 1e-10 to 1e-10"' in text
    assert [row.count("<td>") for row in re.findall("<tr>(.*?)</tr>", text)[1:]] == [2, 2, 2, 2]


def test_within_a_layer_checks_stand_in_the_flow_of_data() -> None:
    checks = (*layers([1e-15, 2e-15], "Attention Output"), *layers([3e-15, 4e-15], "Value"))
    assert [title.partition(":")[0] for title in titles(chart(judged([suite(checks=checks)])))] == [
        "Layer 0 Value",
        "Layer 0 Attention Output",
        "Layer 1 Value",
        "Layer 1 Attention Output",
    ]


def test_in_the_lower_precisions_the_line_beside_the_error_is_the_floor() -> None:
    text = chart(judged([suite(checks=layers([0.02, 0.03], tolerance="0.08", floor="0.04"))]))
    assert titles(text)[0] == "Layer 0 Value: 0.02, floor 0.04"
    assert "</span> floor</li>" in text


def test_it_is_of_the_component_that_the_diagnosis_names_and_of_a_green_run_the_nearest_to_its_limit() -> None:
    steps = tuple(replace(one, component="output") for one in layers([9e-11, 9e-11], "Attention Output"))
    assert "Output in tp2" in chart(judged([suite(checks=(*layers([1e-15, 1e-15]), *steps))]))
    red = judged([suite(checks=(*layers([1e-15, 0.5]), *steps))])
    assert red.diagnosis is not None
    assert "MLA in tp2" in chart(red)


def test_without_numbers_in_two_layers_there_is_no_picture() -> None:
    exact = tuple(check(f"Layer {n} Value", rel_error="0.0", tolerance="0.0") for n in range(3))
    for checks in ((), layers([0.7]), exact, (check("Loss", "fail"), check("Planted defect seen: rope"))):
        assert chart(judged([suite(checks=checks)])) == ""
    assert chart(judged([])) == ""


def test_the_deepest_model_has_a_picture_without_points_and_with_few_labels() -> None:
    text = chart(judged([suite(checks=layers([1e-15] * 400))]))
    assert titles(text) == []
    assert len(points(text, "error-line")) == 400
    assert len(re.findall("<text", text)) < 30


# --- Trends ---


def of_day(day: int, error: float, *more: Check, run: str = "", name: str = "tp2") -> Suite:
    """The results of a day."""
    found = suite(name, (check("Layer 0 Value", rel_error=repr(error)), *more))
    return replace(found, properties={**found.properties, "run": run or f"2026-01-{day:02}T02:17:00.000+00:00 a"})


def kept(folder: Path, *suites: Suite) -> Path:
    for number, one in enumerate(suites):
        junit.write(folder / "results-a" / f"{number}.xml", one)
    return folder


def test_earlier_runs_come_in_the_order_in_which_they_ran_and_this_one_last(tmp_path: Path) -> None:
    folders = [kept(tmp_path / f"{day}", of_day(day, day * 1e-15)) for day in (3, 1, 2)]
    found = history([of_day(9, 5e-14)], folders)
    assert [point.when for point in found.points] == [f"2026-01-0{day}T02:17" for day in (1, 2, 3, 9)]
    assert [round(point.ratios["MLA", "fp64"] * 1e5) for point in found.points] == [1, 2, 3, 50]
    assert found.unread == ()


def test_the_check_nearest_to_its_limit_counts_also_one_that_failed(tmp_path: Path) -> None:
    more = (
        check("Loss", rel_error="3e-15"),
        check("Logits", "fail", rel_error="7e-9"),
        check("a", "known"),
        check("b", "error"),
    )
    then = kept(tmp_path, of_day(1, 1e-15, *more))
    assert history([of_day(2, 1e-15)], [then]).points[0].ratios == {("MLA", "fp64"): pytest.approx(70)}


def test_a_number_that_is_none_is_infinitely_far_off(tmp_path: Path) -> None:
    then = kept(tmp_path, of_day(1, 1e-15, check("Logits", "fail", rel_error="nan")))
    found = history([of_day(2, 1e-15)], [then])
    assert found.points[0].ratios == {("MLA", "fp64"): math.inf}
    assert "smaller" in trend(found)


def test_only_testsuites_that_this_run_has_are_looked_at(tmp_path: Path) -> None:
    then = kept(tmp_path / "a", of_day(1, 1e-15), of_day(1, 9e-11, name="pp2"))
    other = kept(tmp_path / "b", of_day(1, 9e-11, name="pp2"))
    found = history([of_day(2, 2e-15)], [then, other])
    assert [dict(point.ratios) for point in found.points] == [
        {("MLA", "fp64"): pytest.approx(1e-5)},
        {("MLA", "fp64"): pytest.approx(2e-5)},
    ]


def test_without_an_earlier_run_there_is_no_history(tmp_path: Path) -> None:
    assert history([of_day(1, 1e-15)], []) == History()
    assert trend(History()) == ""
    assert history([of_day(1, 1e-15)], [kept(tmp_path, of_day(1, 1e-15, name="pp2"))]) == History()


def test_a_file_of_an_earlier_run_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    kept(tmp_path, of_day(1, 1e-15))
    (tmp_path / "b.xml").write_text("<b")
    found = history([of_day(2, 1e-15)], [tmp_path])
    assert "1 file of earlier runs could not be read; the first: <bdi>b.xml: not JUnit XML" in trend(found)
    (tmp_path / "results-a" / "0.xml").unlink()
    assert "could not be read" in trend(history([of_day(2, 1e-15)], [tmp_path]))


@pytest.mark.parametrize("name", ["none", "empty"])
def test_a_folder_without_results_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"--history .*: no JUnit file \(\*\.xml\) is there"):
        history([of_day(1, 1e-15)], [tmp_path / name])


def past(*ratios: float | None, kind: tuple[str, str] = ("MLA", "fp64")) -> History:
    """A history of one component."""
    found = enumerate(ratios)
    return History(tuple(Point(f"2026-01-{n:02}T02:17", {} if ratio is None else {kind: ratio}) for n, ratio in found))


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ((1e-5, 1e-5), "the same"),
        ((1e-5, 1.9e-5), "about the same"),
        ((1.9e-5, 1e-5), "about the same"),
        ((1e-5, 2e-5), "2.0 times"),
        ((4e-5, 1e-5), "1/4.0"),
        ((0.0, 1e-5), "larger"),
        ((1e-5, 0.0), "smaller"),
        ((1e-5, math.inf), "larger"),
        ((None, 1e-5), "new"),
    ],
)
def test_a_change_is_in_words(ratios: tuple[float | None, ...], said: str) -> None:
    assert f"<td>{said}</td>" in trend(past(*ratios))


def test_a_trend_has_a_point_a_run_and_a_gap_where_a_run_lacks_it() -> None:
    text = trend(past(1e-5, None, 2e-5, 4e-5))
    assert "4 runs from 2026-01-00 02:17 to 2026-01-03 02:17, this one on the right." in text
    assert titles(text) == ["2026-01-00 02:17: 1e-5", "2026-01-02 02:17: 2e-5", "2026-01-03 02:17: 4e-5"]
    assert re.findall('d="(M[^"]*)"', text)[0].count("M") == 2
    found = points(text, "error-line")
    assert [y for _, y in found] == sorted((y for _, y in found), reverse=True), "larger is higher"


def test_rounding_alone_draws_no_cliff() -> None:
    """A line has at least a power of ten of room."""
    found = points(trend(past(1e-5, 1.2e-5)), "error-line")
    assert 0 < found[0][1] - found[1][1] < 3


def test_precisions_are_told_apart_where_there_are_several() -> None:
    both = {("MLA", "fp64"): 1e-5, ("MLA", "bf16"): 0.5}
    text = trend(History((Point("a", both), Point("b", both))))
    assert re.findall('<th scope="row"><bdi>(.*?)</bdi>', text) == ["MLA bf16", "MLA fp64"]
    assert re.findall('<th scope="row"><bdi>(.*?)</bdi>', trend(past(1e-5, 1e-5))) == ["MLA"]


def test_the_command_takes_a_folder_for_each_earlier_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    days = [str(kept(tmp_path / f"day{day}", of_day(day, day * 1e-15))) for day in (1, 2)]
    words = ["page", "--results", str(kept(tmp_path / "now", of_day(3, 4e-15))), "--output", str(tmp_path / "report.html")]
    assert cli.main([*words, "--history", *days]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "3 runs from 2026-01-01 02:17 to 2026-01-03 02:17" in text
    assert "4.0 times" in text
    assert cli.main([*words, "--history", str(tmp_path / "none")]) == 2
    assert "name a folder of results of an earlier run" in capsys.readouterr().err
    assert cli.main([*words, "--history", days[0], ""]) == 2
    assert "--history is empty" in capsys.readouterr().err


def test_of_every_folder_the_files_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    for day in (1, 2):
        kept(tmp_path / f"{day}", of_day(day, 1e-15))
        (tmp_path / f"{day}" / f"broken{day}.xml").write_text("<testsuite")
    found = history([of_day(3, 1e-15)], [tmp_path / "1", tmp_path / "2"])
    assert [sentence.partition(":")[0] for sentence in found.unread] == ["broken1.xml", "broken2.xml"]


def test_a_testsuite_without_a_precision_is_of_an_unknown_one(tmp_path: Path) -> None:
    """And one without a time is from before all others."""

    def unknown(error: float) -> Suite:
        found = of_day(1, error)
        return replace(
            found,
            timestamp="",
            properties={name: v for name, v in found.properties.items() if name not in ("precision", "run")},
        )

    found = history([unknown(2e-15)], [kept(tmp_path, unknown(1e-15))])
    assert [(point.when, set(point.ratios)) for point in found.points] == [("", {("MLA", "?")})] * 2


def test_a_run_without_testsuites_has_no_time(tmp_path: Path) -> None:
    assert history([], [kept(tmp_path, of_day(1, 1e-15))]).points == ()


def test_a_baseline_is_an_earlier_run(tmp_path: Path) -> None:
    """It lies as results of sessions do, with a file about it."""
    (kept(tmp_path, of_day(1, 1e-15)) / "baseline.json").write_text("{}")
    assert len(history([of_day(2, 1e-15)], [tmp_path]).points) == 2


def test_a_line_over_several_powers_of_ten_has_them_all() -> None:
    """From the bottom to the top of its picture, and what is infinite at the top, too."""
    assert [y for _, y in points(trend(past(1e-6, 1e-5, 1e-3)), "error-line")] == [29.0, 21.0, 5.0]
    assert [y for _, y in points(trend(past(1e-6, 1e-5, 1e-3, math.inf)), "error-line")] == [29.0, 21.0, 5.0, 5.0]


# --- Strangers ---


def drawn(text: str) -> Run:
    """A run whose pictures have the text in every place that results can fill."""
    checks = tuple(replace(one, component=text) for one in layers([1e-15, 0.5, 0.6], ranks=text, tolerance="1e-10"))
    found = replace(suite(checks=checks), name=text)
    found = replace(found, properties={**found.properties, "arrangement": text, "precision": text})
    points = tuple(Point(text, {(text, kind): 1e-5 for kind in (text, "fp64")}) for _ in range(2))
    return replace(judged([found]), history=History(points, (text,)))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_in_a_picture_becomes_an_element_or_an_attribute(text: str) -> None:
    harmless, read = Read(document(drawn("word"), "Plumbline")), Read(document(drawn(text), "Plumbline"))
    assert [tag for tag, _ in harmless.elements].count("svg") == 3
    assert [tag for tag, _ in read.elements if tag != "a"] == [tag for tag, _ in harmless.elements if tag != "a"]
    known = {name for _, attributes in harmless.elements for name in attributes}
    assert {name for _, attributes in read.elements for name in attributes} <= known | {"rel"}


def test_a_picture_of_every_kind_is_small(tmp_path: Path) -> None:
    kinds = {(f"component {n}", "fp64"): 1e-5 for n in range(5000)}
    text = trend(History(tuple(Point(f"{n}", kinds) for n in range(100))))
    deep = chart(judged([suite(checks=tuple(check(f"Layer {n} Value") for n in range(9999)))]))
    assert len(text) < 1_500_000
    assert len(deep) < 500_000
