"""Which definition of the MTP loss a reference has: that of the tested megatron-core, or the one that was asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from validation.case.case import Case
from validation.case.mtp import REPORT, TARGETS, divisor
from validation.case.training import Training
from validation.reference import divisor as of_case
from validation.reference import store
from validation.run.options import parsed


def case(words: str = "single+mtp", *more: str) -> Case:
    (found,) = parsed(["--layouts", words, *more]).cases
    return found


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.12.3", REPORT),
        ("0.16.1", REPORT),
        ("0.17.0", TARGETS),
        ("0.19.2", TARGETS),
        ("0.20.0rc0", TARGETS),
        ("0.19.0+abc", TARGETS),
        ("absent", REPORT),
    ],
)
def test_without_a_word_it_is_the_version_s(version: str, expected: str) -> None:
    assert divisor(Training(), version) == expected


@pytest.mark.parametrize("version", ["0.12.3", "0.16.1", "0.19.2", "absent"])
def test_a_mean_of_means_is_by_targets_in_every_version(version: str) -> None:
    """Unless the report's definition is asked for."""
    assert divisor(Training(loss="mean"), version) == TARGETS
    assert divisor(Training(loss="mean", mtp_loss="report"), version) == REPORT


@pytest.mark.parametrize("version", ["0.16.1", "0.19.2"])
def test_with_a_word_it_is_that(version: str) -> None:
    """As an option or behind a layout."""
    for found in (case("single+mtp+mtp-report"), case("single+mtp", "--mtp-loss", "report")):
        assert divisor(found.training, version) == REPORT
        assert found.arrangement == "single+mtp+mtp-report"
        assert Case.from_json(found.to_json()) == found


def test_a_case_that_says_nothing_is_written_as_before() -> None:
    """Its digest stands in results and manifests of earlier releases."""
    assert "mtp_loss" not in case("single").to_json()
    assert "data_shape" not in case("single").to_json()
    assert Case.from_json(case("single").to_json()) == case("single")


def test_references_of_two_definitions_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of one they are one, whatever the version; the micro-batch counts only where it is divided by targets."""

    def key(found: Case, version: str) -> str:
        monkeypatch.setattr(of_case, "version", lambda package: version)
        return store.key(found)

    assert key(case(), "0.16.1") != key(case(), "0.19.2")
    assert key(case(), "0.17.1") == key(case(), "0.19.2") == key(case("single+mtp+mtp-targets"), "0.16.1")
    assert key(case("single"), "0.16.1") == key(case("single"), "0.19.2")
    smaller = replace(case(), micro_batch_size=1)
    assert key(smaller, "0.16.1") == key(case(), "0.16.1")
    assert key(smaller, "0.19.2") != key(case(), "0.19.2")
