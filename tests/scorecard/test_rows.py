"""Rows of some faults take the place of what was measured of them, and all other rows stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from validation.case.errors import UsageError
from validation.scorecard import diagnoses_page
from validation.scorecard.measured import load
from validation.scorecard.page import BEHIND, DATA
from validation.scorecard.rows import diagnosed, joined

ALL, BESIDE, DIAGNOSES = load(DATA), load(BEHIND), diagnoses_page.load()


def test_new_rows_stand_where_the_catalogue_has_them() -> None:
    """One is measured again, one is new, and a false alarm is gone; the time is that of the whole."""
    before = replace(ALL, outcomes=tuple(one for one in ALL.outcomes if one.fault != "P10"))
    again = [replace(one, failing=one.failing + 1) for one in ALL.outcomes if one.fault in ("P09", "P10")]
    alarm = replace(ALL.clean[0], failing=("layers.0.output",))
    before = replace(before, clean=(alarm, *ALL.clean[1:]))
    found = joined(before, replace(ALL, seconds=1, outcomes=tuple(again), clean=ALL.clean[:2]))
    assert [one.fault for one in found.outcomes] == [one.fault for one in ALL.outcomes]
    changed = {one.fault for one, other in zip(found.outcomes, ALL.outcomes, strict=True) if one != other}
    assert changed == {"P09", "P10"}
    assert found.seconds == ALL.seconds
    assert ALL.clean[0] in found.clean
    assert alarm not in found.clean


def test_beside_a_bug_the_rows_of_other_bugs_stay() -> None:
    one = BESIDE.outcomes[0]
    found = joined(BESIDE, replace(BESIDE, outcomes=(replace(one, failing=one.failing + 1),), clean=()))
    assert sum(new != old for new, old in zip(found.outcomes, BESIDE.outcomes, strict=True)) == 1


def test_the_time_of_another_bug_is_added() -> None:
    new = replace(BESIDE, seconds=5, clean=(), outcomes=(replace(BESIDE.outcomes[0], bug="a-bug"),))
    assert joined(BESIDE, new).seconds == BESIDE.seconds + 5
    assert joined(None, new).seconds == 5


def test_a_fault_that_is_gone_leaves_no_row() -> None:
    gone = replace(ALL.outcomes[0], fault="Z99")
    found = joined(replace(ALL, outcomes=(*ALL.outcomes, gone)), replace(ALL, outcomes=(), clean=()))
    assert found.outcomes == ALL.outcomes


def test_diagnoses_are_joined_alike() -> None:
    (one,) = (one for one in DIAGNOSES.found if one.fault == "P10")
    before = replace(DIAGNOSES, found=tuple(other for other in DIAGNOSES.found if other != one))
    found = diagnosed(before, replace(DIAGNOSES, found=(one,)))
    assert found.found == DIAGNOSES.found


def test_rows_of_other_versions_are_not_mixed() -> None:
    with pytest.raises(UsageError, match=r"the other rows were measured on .*; measure all of them"):
        joined(ALL, replace(ALL, machine="another"))
    with pytest.raises(UsageError, match="measure all of them"):
        diagnosed(DIAGNOSES, replace(DIAGNOSES, machine="another"))
