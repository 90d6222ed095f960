"""What comes of the cases of all pairs: findings, lines, JUnit and page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tests.core  # noqa: F401
from ci import junit
from ci.releases import NEWEST, OLDER
from validation import cli
from validation.pairwise import cases, page, run
from validation.pairwise.run import Finding, Outcome, findings
from validation.recipe.pairs import Array, Conflict, Factor, Row, Value, arrangement

D = Value()
WORDS = ("mean", "full", "distributed", "seqaux", "allgather", "sequential")
VALUES = [Value(words=(word,)) for word in WORDS]


@pytest.fixture(autouse=True)
def _only_plumblines_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megatron-Core is asked in one test alone."""
    monkeypatch.setattr(run, "refusal", lambda of: cases.refusal(of, upstream=False))


def row(*words: str) -> Row:
    return tuple(value if value.words[0] in words else D for value in VALUES)


def bench(*guilty: set[str]) -> tuple[Callable[[Row], Outcome], list[str]]:
    """Rows fail that have all words of one of `guilty`; and the rows that were run."""
    seen: list[str] = []

    def outcome(of: Row) -> Outcome:
        seen.append(arrangement(of))
        words = {word for value in of for word in value.words}
        said = tuple(f"FAIL: {'+'.join(sorted(part))}" for part in guilty if part <= words)
        return Outcome(of, 9, 0, said, 1.0)

    return outcome, seen


def found_in(outcome: Callable[[Row], Outcome], *rows: Row) -> list[tuple[str, int, str]]:
    failed = [one for one in map(outcome, rows) if one.failing]
    return [(found.name, len(found.rows), found.line) for found in findings(failed, outcome)]


def test_rows_that_fail_for_one_reason_are_one_finding() -> None:
    """Two of three rows have it; of the second one only the rest is run."""
    outcome, seen = bench({"full", "seqaux"})
    rows = [row("mean", "full", "seqaux", "allgather"), row("full", "distributed", "seqaux"), row("full", "mean")]
    assert found_in(outcome, *rows) == [("single+full+seqaux", 2, "FAIL: full+seqaux")]
    assert seen[-1] == "single+distributed"


def test_a_row_with_a_second_reason_is_two_findings() -> None:
    """What is left of the second row without the first reason still fails."""
    outcome, _ = bench({"full", "seqaux"}, {"distributed"})
    rows = [row("full", "seqaux"), row("full", "seqaux", "distributed", "mean")]
    assert found_in(outcome, *rows) == [
        ("single+full+seqaux", 2, "FAIL: full+seqaux"),
        ("single+distributed", 1, "FAIL: distributed"),
    ]


def test_a_part_that_cannot_run_alone_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is not run, and is no smallest part."""
    outcome, seen = bench({"full"})
    monkeypatch.setattr(run, "refusal", lambda of: "refused" if len(of) == 1 else None)
    assert found_in(outcome, row("full", "mean", "seqaux"))[0][0].count("+") == 2
    assert "single+full" not in seen


def measured() -> page.Measured:
    """Three cases of three factors, one of which fails."""
    factors = tuple(Factor(value.words[0], (D, value)) for value in VALUES[:3])
    rows = ((D, D, D), (VALUES[0], VALUES[1], D), (D, VALUES[1], VALUES[2]))
    array = Array(factors, rows, (Conflict((VALUES[0], VALUES[2]), "mean | distributed\ncannot be"),))
    seen = (Outcome(rows[0], 9, 0, (), 1.0), Outcome(rows[1], 9, 3, (), 1.0), Outcome(rows[2], 9, 0, ("FAIL: Loss",), 1.0))
    return page.Measured(array, seen, (Finding((VALUES[2],), (rows[2],), "FAIL: Loss"),), 12, "2 CPU cores", "0.9")


def test_each_row_has_a_line_and_the_end_says_what_was_found() -> None:
    said = measured()
    assert [page.line(outcome) for outcome in said.outcomes] == [
        "PASS   single: 9 checks",
        "PASS   single+mean+full: 9 checks, 3 known",
        "FAIL   single+full+distributed: 1 of 9 checks, first FAIL: Loss",
    ]
    assert page.summary(said).splitlines() == [
        "FOUND  single+distributed (in 1 case): FAIL: Loss",
        "===== Pairs: FAIL (3 cases, 27 checks, 1 failed, 12 s) =====",
    ]


def test_the_junit_file_has_a_testcase_for_each_row(tmp_path: Path) -> None:
    """That of a row which fails names the smallest part."""
    page.write_junit(tmp_path / "pairs.xml", measured(), "pairs")
    suite = junit.read(tmp_path / "pairs.xml")
    assert [(check.name, check.status) for check in suite.checks] == [
        ("All Checks of single", "pass"),
        ("All Checks of single+mean+full", "pass"),
        ("All Checks of single+full+distributed", "fail"),
    ]
    assert "smallest that fails: single+distributed" in suite.checks[2].details


def test_the_page_says_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a conflict, whatever the sentence has in it, and a column for each release, the oldest first."""
    for name in ("DATA", "PAGE"):
        monkeypatch.setattr(page, name, tmp_path / name)
    later = page.numbers(measured())
    later |= {"known": 7, "conflicts": [*later["conflicts"], ["tp2+full", "too new"]], "findings": []}
    page.DATA.write_text(json.dumps({"0.10": later}), encoding="utf-8")
    page.save(measured())
    text = page.PAGE.read_text(encoding="utf-8")
    assert "| | megatron-core 0.9 | megatron-core 0.10 |\n|---|---|---|\n" in text
    assert "| cases | 3 (3 with 1 rank) | 3 (3 with 1 rank) |" in text
    assert "| checks that show known upstream bugs | 3 | 7 |" in text
    assert "| `single+mean+distributed` | mean / distributed cannot be | all |" in text
    assert "| `tp2+full` | too new | 0.10 |" in text
    assert [line for line in text.splitlines() if "FAIL" in line] == [
        "- `single+distributed` (in 1 case with megatron-core 0.9): FAIL: Loss"
    ]


def test_the_page_in_the_documentation_is_what_the_numbers_say() -> None:
    """Written by `nox -s recipes recipes_other -- --write`, never by hand; with each release that requirements name."""
    data = json.loads(page.DATA.read_text(encoding="utf-8"))
    assert list(data) == [OLDER.megatron_core, NEWEST.megatron_core]
    assert page.PAGE.read_text(encoding="utf-8") == page.text(data)


def test_the_cases_can_be_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without running any. The array of three factors has few."""
    few = measured().array.factors
    cases.array.cache_clear()
    monkeypatch.setattr("validation.recipe.factors.factors", lambda: few)
    try:
        assert cli.main(["pairs", "--list"]) == 0
    finally:
        cases.array.cache_clear()
    listed = capsys.readouterr().out.split()
    assert 4 <= len(listed) <= 6
    assert all(line.startswith("single") for line in listed)


def test_the_configuration_that_megatron_core_refuses_is_refused_with_its_sentence() -> None:
    """Asked of its own classes, before any rank starts."""
    refused = Value(words=("selective", "recompute_modules=[moe_act]"))
    assert "moe_grouped_gemm" in str(cases.refusal((refused,)))
    assert cases.refusal((VALUES[0], VALUES[1])) is None
    assert str(cases.refusal((Value(words=("no_such_field",)),))).startswith("+no_such_field is unknown")
