"""Only what the infrastructure ended is tried again; what each attempt left is kept, told, and looked at by the gate."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ci import attempts, junit
from ci.cli import main
from ci.junit import Check, Suite
from tests.ci.green import CHECKS, FILE, SUITE, verdict

OTHER = "tiny-pp2-fp64-local-gloo.xml"
BROKEN = replace(
    SUITE,
    checks=(
        replace(CHECKS[0], status="error", message="rank 1 was lost"),
        *(replace(check, status="unevaluated", message="not evaluated: the run did not finish") for check in CHECKS[1:]),
    ),
    properties={**SUITE.properties, "broken": "4"},
)
"""A case whose ranks were lost."""
UNFINISHED = replace(SUITE, checks=(Check("run", "run", "error", message="did not finish"),))
FAILED = replace(SUITE, checks=(replace(CHECKS[1], status="fail", message="FAIL: a"), *CHECKS[2:]))
UNDECIDED = replace(SUITE, checks=(replace(CHECKS[1], status="error", message="ERROR: no rank holds [0:1]"), *CHECKS[2:]))
MISSING_PACKAGE = replace(BROKEN, properties={**SUITE.properties, "broken": "3"})


def of_run(suite: Suite, name: str = "another") -> Suite:
    """The testsuite as that run has left it."""
    return replace(suite, properties={**suite.properties, "run": name})


def runs(folder: Path, *outcomes: tuple[int, Suite | None]) -> Callable[[Sequence[str]], int]:
    """Stands for the comparison: each call ends with the next code, and leaves the next testsuite."""
    left = iter(outcomes)

    def run(given: Sequence[str]) -> int:
        code, suite = next(left)
        if suite is not None:
            junit.write(folder / FILE, suite)
        return code

    return run


def test_a_run_that_broke_is_tried_again_and_both_are_kept(tmp_path: Path) -> None:
    assert attempts.attempt(["run"], tmp_path, 2, runs(tmp_path, (4, BROKEN), (0, SUITE))) == 0
    assert junit.read(tmp_path / "attempts" / "1" / FILE) == BROKEN
    last = junit.read(tmp_path / FILE)
    assert last == replace(SUITE, properties={**SUITE.properties, "attempts": "4, 0"})
    assert verdict(tmp_path).green


def test_a_run_that_breaks_every_time_ends_with_4(tmp_path: Path) -> None:
    assert attempts.attempt(["run"], tmp_path, 3, runs(tmp_path, (4, BROKEN), (4, UNFINISHED), (4, BROKEN))) == 4
    assert junit.read(tmp_path / FILE).properties["attempts"] == "4, 4, 4"
    assert junit.read(tmp_path / "attempts" / "2" / FILE) == UNFINISHED


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_nothing_but_4_is_tried_again(tmp_path: Path, code: int) -> None:
    assert attempts.attempt(["run"], tmp_path, 3, runs(tmp_path, (code, SUITE))) == code
    assert junit.read(tmp_path / FILE) == SUITE
    assert not (tmp_path / "attempts").exists()


@pytest.mark.parametrize(
    ("left", "why"),
    [
        pytest.param(FAILED, "holds a verdict, Layer 0 Query fails", id="failure"),
        pytest.param(UNDECIDED, "holds an error that is not of the infrastructure, Layer 0 Query", id="error"),
        pytest.param(MISSING_PACKAGE, "holds an error that is not of the infrastructure", id="missing package"),
    ],
)
def test_a_verdict_beside_a_broken_run_is_final(
    tmp_path: Path, left: Suite, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One case failed, then the process was killed: that the code is 4 does not take the failure away."""
    assert attempts.attempt(["run"], tmp_path, 3, runs(tmp_path, (4, left))) == 4
    assert junit.read(tmp_path / FILE) == left
    assert f"Not tried again: {FILE} {why}" in capsys.readouterr().out


def test_a_file_that_cannot_be_read_is_no_reason_to_try_again(tmp_path: Path) -> None:
    def run(given: Sequence[str]) -> int:
        (tmp_path / FILE).write_text("<testsuite")
        return 4

    assert attempts.attempt(["run"], tmp_path, 2, run) == 4
    assert not (tmp_path / "attempts").exists()


def test_what_an_earlier_run_left_in_the_folder_stays_as_it_is(tmp_path: Path) -> None:
    junit.write(tmp_path / "earlier.xml", FAILED)
    assert attempts.attempt(["run"], tmp_path, 2, runs(tmp_path, (4, BROKEN), (0, SUITE))) == 0
    assert junit.read(tmp_path / "earlier.xml") == FAILED
    assert not (tmp_path / "attempts" / "1" / "earlier.xml").exists()


def test_an_attempt_that_left_no_file_is_told_and_none_is_missed(tmp_path: Path) -> None:
    assert attempts.attempt(["run"], tmp_path, 2, runs(tmp_path, (4, None), (0, SUITE))) == 0
    assert junit.read(tmp_path / FILE).properties["attempts"] == "4 without a file, 0"
    assert verdict(tmp_path).green


KEPT = "attempt 1 holds a verdict, Layer 0 Query fails: only an infrastructure error may be tried again"


@pytest.mark.parametrize(
    ("told", "kept", "said"),
    [
        pytest.param("4, 0", {1: BROKEN}, [], id="as it must be"),
        pytest.param("4, 4, 0", {1: BROKEN, 2: UNFINISHED}, [], id="twice"),
        pytest.param("4, 0", {1: SUITE}, [], id="it passed, and a case beside it broke"),
        pytest.param("4, 0", {1: FAILED}, [KEPT], id="a failure tried again"),
        pytest.param(
            "4, 0",
            {1: UNDECIDED},
            ["attempt 1 holds an error that is not of the infrastructure, Layer 0 Query: only such may be tried again"],
            id="an error tried again",
        ),
        pytest.param(
            "1, 0",
            {1: BROKEN},
            ["attempt 1 ended with exit code 1, which is final: only 4, an infrastructure error, may be tried again"],
            id="another code",
        ),
        pytest.param(
            "4, 0",
            {},
            [f"attempt 1 was not kept as it was ({FILE}: is missing: no run has left it, or nobody has handed it over)"],
            id="not kept",
        ),
        pytest.param(None, {1: FAILED}, ["attempt 1 is kept, and the testsuite does not tell of it"], id="not told"),
        pytest.param(
            "4, 0", {1: BROKEN, 2: FAILED}, ["attempt 2 is kept, and the testsuite does not tell of it"], id="one more"
        ),
        pytest.param(None, {1: of_run(FAILED), 7: of_run(SUITE)}, [], id="left by another run"),
        pytest.param("4, 0", {1: BROKEN, 2: of_run(FAILED), 300: of_run(BROKEN)}, [], id="more left by another run"),
        pytest.param(
            "4, 0", {1: of_run(BROKEN)}, ["attempt 1 was not kept: what lies there is of another run"], id="another run's"
        ),
        pytest.param("0", {}, ["says of its attempts '0', which python -m ci attempts does not write"], id="one alone"),
        pytest.param("soon, 0", {}, ["says of its attempts 'soon, 0', which python -m ci attempts does not write"], id="words"),
    ],
)
def test_the_gate_looks_at_attempts(tmp_path: Path, told: str | None, kept: dict[int, Suite], said: list[str]) -> None:
    properties = SUITE.properties if told is None else {**SUITE.properties, "attempts": told}
    junit.write(tmp_path / FILE, replace(SUITE, properties=properties))
    for number, suite in kept.items():
        junit.write(tmp_path / "attempts" / str(number) / FILE, suite)
    assert [why for _, why in verdict(tmp_path).reasons] == said


@pytest.mark.parametrize("left", [f"attempts/1/{OTHER}", "attempts/1/junit.txt", f"attempts/{FILE}", "attempts/01/" + FILE])
def test_leftovers_of_attempts_that_are_none_of_a_testsuite_s_count_for_nothing(tmp_path: Path, left: str) -> None:
    """Files of other cases, files that are no XML, and places that no attempt writes to."""
    junit.write(tmp_path / FILE, SUITE)
    junit.write(tmp_path / left, of_run(FAILED))
    assert verdict(tmp_path).green
    (tmp_path / left).write_text("no XML")
    assert verdict(tmp_path).green


def test_an_attempt_that_cannot_be_read_and_is_not_told_counts_for_nothing(tmp_path: Path) -> None:
    junit.write(tmp_path / FILE, SUITE)
    (tmp_path / "attempts" / "1").mkdir(parents=True)
    (tmp_path / "attempts" / "1" / FILE).write_text("<testsuite")
    assert verdict(tmp_path).green


SAYS_ITS_RUN = """
import sys
from pathlib import Path
from ci import run
with Path("runs").open("a") as file:
    file.write(run.begun() + "\\n")
sys.exit(4 if len(Path("runs").read_text().splitlines()) % 3 else 0)
"""


def test_all_attempts_are_one_run_and_the_next_command_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command of `ci attempts` has a process of its own, and so has each attempt."""
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "__main__.py").write_text(SAYS_ITS_RUN)
    (tmp_path / "ci").symlink_to(Path(attempts.__file__).parent)
    (tmp_path / "validation" / "case").symlink_to(Path(attempts.__file__).parents[1] / "validation" / "case")
    for _ in range(2):
        words = [sys.executable, "-m", "ci", "attempts", "--up-to", "3", "--", "run"]
        assert subprocess.run(words, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    said = (tmp_path / "runs").read_text().splitlines()
    assert (len(said), said[:3], said[3:]) == (6, [said[0]] * 3, [said[3]] * 3)
    assert said[0] != said[3]


STAND_IN = """
import os, sys
from pathlib import Path
print("ran", *sys.argv[1:])
sys.exit(int(Path("code").read_text()))
"""


@pytest.mark.parametrize(("code", "ended"), [(0, 0), (1, 1), (4, 4), (137, 4)])
def test_the_command_runs_the_comparison_and_ends_as_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], code: int, ended: int
) -> None:
    """A code that is none of ours is that of a process that was killed."""
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "__main__.py").write_text(STAND_IN)
    (tmp_path / "code").write_text(str(code))
    monkeypatch.chdir(tmp_path)
    assert main(["attempts", "--up-to", "2", "--", "run", "--layouts", "tp2", "--", "-k", "mla"]) == ended
    said = capfd.readouterr().out
    assert said.count("ran run --layouts tp2 -- -k mla\n") == (2 if ended == 4 else 1)
    assert ("Attempt 1 of 2 ended with exit code 4 (infrastructure): trying again" in said) == (ended == 4)


@pytest.mark.parametrize("words", [["--up-to", "0", "--", "run"], ["--", "doctor"], []])
def test_a_command_that_makes_no_sense_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attempts", *words]) == 2
    assert "give --up-to 1 or more, and after -- the command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["run"], "results"),
        (["run", "--results", "a", "--tp", "2"], "a"),
        (["run", "--results=b"], "b"),
        (["run", "--", "--results", "c"], "results"),
        (["slurm", "run", "--nodes", "2", "--", "--tp", "2", "--results", "d", "--", "--results", "e"], "d"),
    ],
)
def test_results_are_looked_for_where_the_command_puts_them(words: list[str], folder: str) -> None:
    assert attempts._results(words) == Path(folder)


@pytest.mark.parametrize("dashes", [[], ["--"]])
def test_the_dashes_before_the_command_may_be_left_out(monkeypatch: pytest.MonkeyPatch, dashes: list[str]) -> None:
    asked: list[Sequence[str]] = []

    def run(given: Sequence[str]) -> int:
        asked.append(given)
        return 0

    monkeypatch.setattr(attempts, "_run", run)
    assert main(["attempts", *dashes, "run", "--tp", "2", "--", "-k", "mla"]) == 0
    assert asked == [["run", "--tp", "2", "--", "-k", "mla"]]
