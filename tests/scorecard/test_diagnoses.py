"""The catalogue's diagnoses: what they are made of, what they are compared with, and what docs/diagnoses.md says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit
from ci.releases import OLDER
from tests.checks.conftest import warm
from tests.ci.made_up import sound, wrong
from validation.checks.facts import case_file
from validation.faults import catalogue
from validation.faults.fault import CAUSES, GROUPS, Fault
from validation.scorecard import diagnoses, diagnoses_page, told
from validation.scorecard.diagnoses import RIGHT, SILENT, UNSURE, WRONG, of, plugin_in
from validation.scorecard.diagnoses_page import PAGE, load, page, summary
from validation.scorecard.layouts import COUNT, SPARE, diagnosed, has

FAULTS = catalogue.faults(OLDER.megatron_core)

LOST_SUM = catalogue.find("T13")
every_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)


def test_the_page_in_docs_is_what_its_data_makes() -> None:
    """`python -m validation.scorecard.diagnoses_page` makes it again from the data."""
    assert PAGE.read_text(encoding="utf-8") == page(load())


def test_the_data_in_docs_is_of_the_catalogue_as_it_is() -> None:
    """What was added or changed has been measured: `nox -s faults -- --diagnose --write`."""
    assert [(one.fault, one.cause) for one in load().found] == [(fault.id, fault.named) for fault in FAULTS]


def test_nine_of_ten_diagnoses_name_what_the_fault_is_and_none_another_cause_for_certain() -> None:
    found = load().found
    assert told.enough(found)
    shown = [one for one in found if one.status != SILENT]
    assert len(shown) >= len(found) - 1
    assert sum(one.status == RIGHT for one in shown) >= 0.9 * len(shown)
    assert [one.fault for one in shown if one.status == WRONG] == []


def test_each_was_diagnosed_from_eight_cases() -> None:
    assert {one.fault for one in load().found if len(one.failing) + len(one.passing) != COUNT} == set()


@every_fault
def test_the_cases_of_a_fault_are_those_that_show_it_and_others(fault: Fault) -> None:
    """Each once; its own layouts come first. Half have all that it needs, the others lack a part: the precision, an option."""
    cases = diagnosed(fault)
    names = [case.name for case in cases]
    assert COUNT <= len(set(names)) == len(names) <= COUNT + SPARE
    assert [case.arrangement for case in cases[: len(fault.layouts)]] == [fault.case(one).arrangement for one in fault.layouts]
    assert all(case.layout.ranks <= 8 for case in cases)
    lower, options = fault.precision != "fp64", any("+" in layout for layout in fault.layouts)
    exact = {(True, False): (4, 8), (True, True): (4, 6)}.get((lower, options), (0, 0))
    if lower:
        assert [at for at, case in enumerate(cases[:COUNT]) if case.precision == "fp64"] == list(range(*exact))
    if options:
        words = {one for one in fault.shown_with if one.startswith("+")}
        has_all = [all(has(case, word) for word in words) for case in cases[:COUNT]]
        assert has_all == [place < (exact[1] or 4) for place in range(COUNT)]


@every_fault
def test_what_a_diagnosis_must_name_is_what_it_may_name(fault: Fault) -> None:
    assert fault.named in fault.true
    assert set(fault.needs.split()) <= fault.shown_with


def test_a_fault_of_each_group_has_a_cause() -> None:
    assert tuple(CAUSES) == GROUPS
    assert catalogue.find("A02").true == {"modelling"}
    assert catalogue.find("G13").named == "tensor parallelism"
    assert catalogue.find("G13").true == {"tensor parallelism", "optimizer step"}
    assert catalogue.find("W16").true == {"weights", "option +mtp"}
    assert catalogue.find("D02").true == {"precision", "weights"}
    assert catalogue.find("E01").true == {"expert parallelism", "data parallelism"}


def test_a_fault_is_put_into_cases_that_have_what_it_describes() -> None:
    mean = catalogue.find("P09")
    assert plugin_in(mean, mean.case("single+mean")) == mean.plugin
    assert plugin_in(mean, mean.case("single")) == ""
    assert plugin_in(LOST_SUM, LOST_SUM.case("single")) == LOST_SUM.plugin


def test_degrees_and_options_are_counted_as_megatron_does() -> None:
    case = LOST_SUM.case("tp2+mean")
    assert [has(case, one) for one in ("tp", "etp", "dp", "ep", "+mean", "+full")] == [True, True, False, False, True, False]
    assert has(LOST_SUM.case("ep2"), "dp")


def test_a_diagnosis_is_right_unsure_wrong_or_none() -> None:
    passing = [sound(layout) for layout in ("single", "pp2", "ep2")]
    right = of(LOST_SUM, [*passing, wrong("tp2"), wrong("tp2pp2")])
    assert (right.status, right.failing, right.passing) == (RIGHT, ("tp2", "tp2pp2"), ("single", "pp2", "ep2"))
    assert right.seconds == pytest.approx(7.5)
    assert of(LOST_SUM, [*passing, wrong("cp2")]).status == WRONG
    assert of(LOST_SUM, [wrong("cp2")]).status == UNSURE
    assert of(LOST_SUM, passing).status == SILENT
    more = of(LOST_SUM, [*map(sound, ("single", "tp2", "cp2", "pp2")), wrong("tp2cp2")])
    assert (more.status, more.groups) == (UNSURE, ("tensor parallelism", "context parallelism"))
    assert of(LOST_SUM, [sound("single", precision="bf16"), *passing]).passing[0] == "single bf16"


def test_nine_of_ten_are_enough_if_the_others_are_not_certain() -> None:
    right, unsure, bad, silent = (
        replace(of(LOST_SUM, [wrong("tp2")]), status=status) for status in (RIGHT, UNSURE, WRONG, SILENT)
    )
    assert told.enough([right] * 9 + [unsure])
    assert told.enough([right] * 9 + [unsure, silent, silent])
    assert not told.enough([right] * 8 + [unsure])
    assert not told.enough([right] * 99 + [bad])
    assert told.counted([right, unsure, unsure, silent]) == "1 of 4 right, 2 unsure, 1 nothing fails"
    assert told.line(silent).startswith("T13 (tensor parallelism) nothing fails: ")


def kept(folder: Path, fault: Fault) -> None:
    """Testsuites as a run leaves them."""
    place = folder / diagnoses.FOLDER / fault.id
    place.mkdir(parents=True)
    for case in diagnosed(fault)[:COUNT]:
        made = wrong(case.arrangement) if has(case, "tp") else sound(case.arrangement)
        junit.write(place / case_file(case.name), made)


def test_testsuites_that_a_run_left_are_judged_again(tmp_path: Path) -> None:
    kept(tmp_path, LOST_SUM)
    done = warm(["faults", "--diagnose", "--again", "--only", "T13", "--results", str(tmp_path)], tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    first, line, last, end = done.stdout.split("\n")
    assert first == "===== diagnoses: 1 fault, each in 8 cases ====="
    assert line.startswith("1/1, 0 s: T13 (tensor parallelism) right: Every layout with tp fails (tp2, tp2pp2 and 1 more) and")
    assert last.startswith("===== Diagnoses: PASS (1 of 1 right, ")
    assert end == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--again"], "error: --again is about diagnoses; give --diagnose, too\n"),
        (["--diagnose", "--behind", "all"], "error: --diagnose runs faults without known upstream bugs; leave --behind out\n"),
    ],
)
def test_wrong_usage_is_one_sentence(words: list[str], says: str, tmp_path: Path) -> None:
    done = warm(["faults", *words, "--results", str(tmp_path)], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", says)


def test_where_no_run_has_left_anything_that_is_said(tmp_path: Path) -> None:
    done = warm(["faults", "--diagnose", "--again", "--only", "T13", "--results", str(tmp_path)], tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'diagnoses' / 'T13'} has no testsuites; leave --again out, and they are made\n"


def test_the_summary_counts_each_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the page has what is not right first."""
    right = of(LOST_SUM, [sound("single"), sound("pp2"), wrong("tp2", pattern="a|b")])
    silent = replace(of(catalogue.find("A02"), [sound("single")]), seconds=2.25)
    measured = diagnoses_page.Measured("2 cores", (right, silent))
    assert "| attention | 1 | 0 | 0 | 0 | 0 | 0 |\n" in summary(measured)
    assert "| tensor parallel | 1 | 1 | 1 | 1 | 0 | 0 |\n" in summary(measured)
    assert "| **all** | 2 | 1 | 1 | 1 | 0 | 0 |\n" in summary(measured)
    text = page(measured)
    assert "measured on 2 cores; the ranks ran for 7 s" in text
    assert text.index("[A02]") < text.index("[T13]")
    assert "| nothing: nothing fails; it is modelling |" in text
    assert "(a&#124;b)" in text
    for name, file in (("DATA", "a.json"), ("PAGE", "a.md")):
        monkeypatch.setattr(diagnoses_page, name, tmp_path / file)
    diagnoses_page.save(measured)
    assert load() == measured
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == text
