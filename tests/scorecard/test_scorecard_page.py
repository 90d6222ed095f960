"""docs/scorecard.md is what its two files of data make, that is of the catalogue as it is, and it holds what is claimed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from ci.releases import OLDER
from validation.faults import catalogue
from validation.machine import version
from validation.scorecard import page as pages
from validation.scorecard.behind import ACTIVATED, behind
from validation.scorecard.judge import IDLE, NOWHERE, SEEN, Clean, Outcome
from validation.scorecard.measured import Measured, load
from validation.scorecard.page import BEHIND, DATA, PAGE, elsewhere, page, save

FAULTS = catalogue.faults(OLDER.megatron_core)

MEASURED, BESIDE_BUGS = load(DATA), load(BEHIND)


def test_the_page_in_docs_is_what_its_data_makes() -> None:
    """Nobody writes it by hand; `python -m validation.scorecard.page` makes it again from the data."""
    assert PAGE.read_text(encoding="utf-8") == page(MEASURED, BESIDE_BUGS, elsewhere())


def test_the_data_in_docs_is_of_the_catalogue_as_it_is() -> None:
    """What was added or changed has been measured: `nox -s faults -- --write`."""
    wanted = [(fault.id, layout, fault.first_in(fault.case(layout))) for fault in FAULTS for layout in fault.layouts]
    assert [(one.fault, one.layout, one.check) for one in MEASURED.outcomes] == wanted
    cases = {fault.case(layout).name for fault in FAULTS for layout in fault.layouts}
    assert {clean.case for clean in MEASURED.clean} == cases


def test_beside_known_bugs_the_data_in_docs_is_of_the_catalogue_as_it_is() -> None:
    """What was added or changed has been measured: `nox -s faults_behind_bugs -- --write`."""
    if version("megatron-core") != OLDER.megatron_core:
        pytest.skip(f"measured with megatron-core {OLDER.megatron_core}; another release has other bugs")
    tried = behind(FAULTS, tuple(ACTIVATED))
    wanted = sorted((trial.bug, trial.fault.id, trial.layout, trial.fault.first_in(trial.case)) for trial in tried)
    assert sorted((one.bug, one.fault, one.layout, one.check) for one in BESIDE_BUGS.outcomes) == wanted
    assert {clean.case for clean in BESIDE_BUGS.clean} == {trial.case.name for trial in tried}


def test_beside_known_bugs_nothing_is_missed_that_is_caught_without_them() -> None:
    """But for what no check sees in any case, and what changes nothing there."""
    caught = {one.fault for one in MEASURED.outcomes if one.caught}
    shown = [one for one in BESIDE_BUGS.outcomes if one.status not in (IDLE, NOWHERE)]
    assert [one for one in shown if one.fault in caught and not one.caught] == []
    assert len(shown) > 300
    assert all(clean.checks and not clean.failing and not clean.says for clean in BESIDE_BUGS.clean)


def test_every_fault_of_an_algorithm_was_caught() -> None:
    assert [one.fault for one in MEASURED.outcomes if not one.caught and catalogue.find(one.fault).group != "precision"] == []


def test_nine_of_ten_faults_of_precision_were_caught_and_each_miss_says_why() -> None:
    found = [one for one in MEASURED.outcomes if catalogue.find(one.fault).group == "precision"]
    missed = [one.fault for one in found if not one.caught]
    assert len(missed) <= len(found) / 10
    assert all(catalogue.find(name).unseen for name in missed)


def test_nine_of_ten_faults_were_seen_where_they_are() -> None:
    assert sum(one.status == SEEN for one in MEASURED.outcomes) >= 0.9 * len(MEASURED.outcomes)


def test_every_fault_changed_something_and_nothing_else_failed() -> None:
    assert all(one.changed for one in MEASURED.outcomes)
    assert all(clean.checks and not clean.failing and not clean.says for clean in MEASURED.clean)


def test_data_and_page_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no number comes back as none."""
    for name, file in (("DATA", "a.json"), ("BEHIND", "b.json"), ("PAGE", "scorecard.md")):
        monkeypatch.setattr(pages, name, tmp_path / file)
    monkeypatch.setattr(pages, "KEPT", ())
    seen = Outcome(
        "A02", "single", SEEN, "a.check", "A Check", "A Check", error=0.5, limit=0.25, changed=1, peers={"ms-swift": True}
    )
    missed = Outcome("D09", "single", "missed", "a.check", "A Check")
    beside = Outcome("A02", "tp2", "seen elsewhere", "a.check", "A Check", "B Check", bug="latent-norm-epsilon")
    clean = (Clean("a-case", 9, ()), Clean("b-case", 9, ("FAIL: x",)))
    save(Measured("a machine", 62.0, (beside, replace(beside, status=IDLE)), clean), tmp_path / "b.json")
    save(Measured("a machine", 61.0, (seen, missed), clean), tmp_path / "a.json")
    again = load(tmp_path / "a.json")
    assert again.outcomes[0] == seen
    assert math.isnan(again.outcomes[1].error)
    text = (tmp_path / "scorecard.md").read_text(encoding="utf-8")
    assert "run on a machine in 61 s" in text
    assert "| attention | 1 | 1 | 1 | 0 | 0 | 1 | 0 | 0 | 0 |\n" in text
    assert "| precision | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |\n" in text
    assert "- D09, missed: norms compute in bfloat16 in place of float32. It rounds no more" in text
    assert "| [latent-norm-epsilon](findings/latent-norm-epsilon.md) | 2 | 1 | 1 | 0 |\n| **all** | 2 | 1 | 1 | 0 |\n" in text
    assert "- A02 in tp2 beside latent-norm-epsilon: first seen at B Check: " in text
    assert "Of 2 cases without a fault (18 checks) the checks fail 1.\n" in text
    assert "A Check | 5e-01 | 2e+00 | ms-swift |\n" in text
