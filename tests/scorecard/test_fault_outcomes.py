"""What is made of a fault: seen where it is, elsewhere, not at all, or no fault; and which of these is red."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit
from ci.releases import OLDER
from validation.case.errors import ExitCode
from validation.checks.order import place
from validation.compare.difference import Difference
from validation.compare.measurement import PieceReport
from validation.compare.verdict import Verdict
from validation.faults import catalogue
from validation.run.launch import Broken
from validation.run.result import Result
from validation.scorecard import judge as judging
from validation.scorecard import peers
from validation.scorecard.judge import BROKEN, ELSEWHERE, IDLE, MISSED, NOWHERE, SEEN, Clean, Outcome, judge, judge_clean
from validation.scorecard.report import Scorecard
from validation.scorecard.trial import Found, Trial

FAULTS = catalogue.faults(OLDER.megatron_core)

FAULT = catalogue.find("A02")
CASE = FAULT.case("single")
TRIAL = Trial(FAULT, "single", CASE)
CORE, QUERY, OUTPUT = (f"layers.0.attention.{part}" for part in ("core", "query", "output"))


def found(digest: str) -> Result:
    piece = PieceReport(0, ((0, 1),), Difference(1, 0, 0.0, (0,), 0.0, 0.0, 1.0, 1.0, 0, 0), digest)
    return Result(CASE, 1.0, {}, pieces={CORE: (piece,)})


def twice(result: Result) -> Found:
    """Of a case without known bugs."""
    return Found(result, result)


def outcome(monkeypatch: pytest.MonkeyPatch, statuses: dict[str, str], digest: str = "other", alarmed: bool = False) -> Outcome:
    """Of a run with these verdicts and bytes; `alarmed`: a peer's rule is broken without the fault, too."""
    properties = {"rel_error": "0.5", "tolerance": "0.1"}
    verdicts = [Verdict(status, name, properties=properties, place=place(CASE, name)) for name, status in statuses.items()]
    monkeypatch.setattr(judging, "verdicts", lambda result, without: verdicts)
    monkeypatch.setattr(peers, "said", lambda result: {"rule": alarmed or result.pieces[CORE][0].digest != "same"})
    return judge(TRIAL, twice(found(digest)), twice(found("same")))


def test_it_is_seen_where_the_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = outcome(monkeypatch, {OUTPUT: "fail", CORE: "fail", QUERY: "pass"})
    assert (seen.status, seen.first, seen.error, seen.limit, seen.failing, seen.changed) == (SEEN, CORE, 0.5, 0.1, 2, 1)
    assert seen.caught


@pytest.mark.parametrize("first", [QUERY, OUTPUT])
def test_it_is_caught_elsewhere(monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    seen = outcome(monkeypatch, {CORE: "fail" if first == QUERY else "pass", first: "fail"})
    assert (seen.status, seen.first, seen.caught) == (ELSEWHERE, first, True)


@pytest.mark.parametrize("status", ["pass", "known"])
def test_it_is_missed(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    """A known bug is no sign of it."""
    assert outcome(monkeypatch, {CORE: status}).status == MISSED


def test_a_missed_fault_has_the_numbers_of_the_check_that_must_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missed = outcome(monkeypatch, {QUERY: "pass", CORE: "pass"})
    assert (missed.error, missed.limit, missed.sound) == (0.5, 0.1, 0.5)
    assert math.isnan(outcome(monkeypatch, {QUERY: "pass"}).error)


def test_nothing_is_decided_in_a_case_that_fails_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "verdicts", lambda result, without: [Verdict("fail", "a")])
    monkeypatch.setattr(peers, "said", lambda result: {})
    undecided = judge(TRIAL, twice(found("other")), twice(found("same")), Clean(CASE.name, 3, ("FAIL: a",)))
    assert (undecided.status, undecided.says) == (BROKEN, "1 check fails without it, first FAIL: a")


def test_what_changes_no_byte_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(monkeypatch, {CORE: "pass"}, digest="same").status == IDLE


def test_a_rule_that_is_broken_without_it_does_not_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(monkeypatch, {CORE: "fail"}).peers == {"rule": True}
    assert outcome(monkeypatch, {CORE: "fail"}, alarmed=True).peers == {"rule": False}


@pytest.mark.parametrize("side", ["with it", "without it"])
@pytest.mark.parametrize("known_bug", ["in it", "taken out"])
def test_a_run_that_broke_decides_nothing(side: str, known_bug: str) -> None:
    broke, sound = replace(found("other"), broken=Broken(0, "rank 0 raised", "")), found("same")
    half = Found(broke, sound) if known_bug == "in it" else Found(sound, broke)
    wrong, without = (half, twice(sound)) if side == "with it" else (twice(sound), half)
    assert judge(TRIAL, wrong, without).status == BROKEN


def test_a_fault_may_have_nothing_to_be_put_into_beside_a_known_bug_only() -> None:
    """In a case of its own such a fault is an error."""
    wrong = twice(replace(found("other"), broken=Broken(0, "rank 0 raised UsageError", "", ExitCode.USAGE)))
    assert judge(replace(TRIAL, bug="latent-norm-epsilon"), wrong, twice(found("same"))).status == NOWHERE
    assert judge(TRIAL, wrong, twice(found("same"))).status == BROKEN


def test_a_sound_run_that_fails_is_a_false_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    found_ = [Verdict("fail", "a"), Verdict("pass", "b"), Verdict("known", "c")]
    monkeypatch.setattr(judging, "verdicts", lambda result, without: found_)
    monkeypatch.setattr(peers, "said", lambda result: {})
    assert judge_clean(CASE, twice(found("same"))) == Clean(CASE.name, 3, ("FAIL: a",))


def one(status: str, fault: str = "A02", bug: str = "") -> Outcome:
    return Outcome(fault, "single", status, CORE, CORE, CORE, error=math.nan, bug=bug)


MISSED_BY_DESIGN = next(fault.id for fault in FAULTS if fault.unseen)


@pytest.mark.parametrize(
    ("came", "status", "code"),
    [
        (one(SEEN), "pass", ExitCode.PASS),
        (one(ELSEWHERE), "pass", ExitCode.PASS),
        (one(MISSED), "fail", ExitCode.FAIL),
        (one(IDLE), "error", ExitCode.FAIL),
        (one(BROKEN), "error", ExitCode.FAIL),
        (one(MISSED, MISSED_BY_DESIGN), "known", ExitCode.PASS),
        (one(SEEN, MISSED_BY_DESIGN), "fail", ExitCode.FAIL),
        (one(SEEN, bug="latent-norm-epsilon"), "pass", ExitCode.PASS),
        (one(MISSED, bug="latent-norm-epsilon"), "fail", ExitCode.FAIL),
        (one(IDLE, bug="latent-norm-epsilon"), "known", ExitCode.PASS),  # the bug leaves it nothing to change
        (one(NOWHERE, bug="latent-norm-epsilon"), "known", ExitCode.PASS),
        (Clean("a case", 9, ()), "pass", ExitCode.PASS),
        (Clean("a case", 9, ("FAIL: a",)), "fail", ExitCode.FAIL),
        (Clean("a case", 0, (), "rank 0 was lost"), "error", ExitCode.FAIL),
    ],
)
def test_what_is_red(came: Clean | Outcome, status: str, code: ExitCode, tmp_path: Path) -> None:
    """One that no check can see, and says why, must be missed."""
    group = (came.bug or catalogue.find(came.fault).group) if isinstance(came, Outcome) else "clean"
    card = Scorecard(tmp_path, {"command": "x"}, [] if group == "clean" else [group])
    card.add(came)
    assert card.finish() == code
    (check,) = junit.read(tmp_path / f"faults-{group}.xml").checks
    assert check.status == status


@pytest.mark.parametrize(
    ("error", "says", "said"),
    [
        (0.5, "relative error 5.00e-01 > 1e-10; scaled by 2", " (relative 5.0e-01)"),
        (math.nan, "rank 0: rounded to bfloat16: all are; rank 1: the same", " (rank 0: rounded to bfloat16: all are)"),
        (
            math.inf,
            "2 elements of the candidate are not finite; relative error inf > 1e-10",
            " (2 elements of the candidate are",
        ),
        (math.nan, "", ""),
    ],
)
def test_what_has_no_error_says_what_the_check_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: float, says: str, said: str
) -> None:
    """As one of roundings, of choices, or of what is not finite."""
    group = catalogue.find(FAULT.id).group
    card = Scorecard(tmp_path, {"command": "x"}, [group])
    card.add(replace(one(SEEN), first=CORE, error=error, limit=error / 5, says=says))
    assert f"first failing check {CORE}{said}" in capsys.readouterr().out
    card.finish()
    (check,) = junit.read(tmp_path / f"faults-{group}.xml").checks
    assert (
        {"rel_error", "tolerance"} <= check.properties.keys() if math.isfinite(error) else "rel_error" not in check.properties
    )
    assert not {"nan", "inf"} & set(check.properties.values())


def test_what_has_not_finished_says_so(tmp_path: Path) -> None:
    Scorecard(tmp_path, {}, ["norm"])
    assert [junit.read(path).checks[0].message for path in tmp_path.glob("*.xml")] == ["did not finish"] * 2
