"""`python -m ci gate`: its exit codes, what it prints, and its options."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit
from ci.cli import main
from ci.expected import save
from tests.ci.green import (
    COMMIT,
    FILE,
    MANIFEST,
    MISSING,
    NUMBERS,
    OTHER,
    SUITE,
    command_line,
    with_check,
    with_properties,
)

Gate = Callable[..., tuple[int, str]]


@pytest.fixture
def gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Gate:
    """The command, on results that are green; its exit code and what it says."""

    def run(*words: str) -> tuple[int, str]:
        options = command_line(tmp_path, anew=not (tmp_path / "manifest.json").exists())
        code = main(["gate", *options, *words])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_the_command_ends_with_0_for_green(gate: Gate) -> None:
    assert gate() == (0, "===== Gate: GREEN (1 testsuite, 4 checks: 3 pass, 1 with a known upstream bug) =====\n")


def test_the_command_ends_with_1_for_red_and_says_why(gate: Gate, tmp_path: Path) -> None:
    gate()
    (tmp_path / "results" / FILE).unlink()
    assert gate() == (
        1,
        f"red: {FILE}: {MISSING}\n===== Gate: RED, 1 reason (0 testsuites, 0 checks: nothing) =====\n",
    )


def test_a_red_log_begins_with_the_cause_and_says_how_to_see_it_again(gate: Gate, tmp_path: Path) -> None:
    """Whoever reads a job's log has nothing else. JSON has the cause, too. No runner obeys the command."""
    gate()
    how = "python -m validation run --layouts tp2 --only '##[error]'"
    numbers = {**NUMBERS, "rel_error": "0.5", "projection": "0.5", "kind": "sharding", "reproduce": how}
    junit.write(tmp_path / "results" / FILE, with_check(1, status="fail", message="FAIL: a", properties=numbers)(SUITE))
    code, said = gate()
    assert code == 1
    assert said == (
        "Diagnosis: tp2 fails: likely a missing tensor-parallel reduction, first at Layer 0 Query "
        "(about 1/tp of it is left: scaled by 0.5).\n"
        "To decide, run dp2: if it fails, the cause is what all layouts of several ranks share, else tensor parallelism.\n"
        f"red: {FILE}: 1 check fails: Layer 0 Query (mla); the first in the flow of data: FAIL: a\n"
        "Reproduce: python -m validation run --layouts tp2 --only '# #[error]'\n"
        "===== Gate: RED, 1 reason (1 testsuite, 4 checks: 2 pass, 1 fail, 1 with a known upstream bug) =====\n"
    )
    _, said = gate("--format", "json")
    found = json.JSONDecoder().raw_decode(said)[0]["diagnosis"]
    assert (found["sentence"][:11], found["deciding"][:18]) == ("tp2 fails: ", "To decide, run dp2")


def test_another_commit_than_the_manifest_s_can_be_demanded(gate: Gate) -> None:
    code, said = gate("--commit", OTHER)
    assert code == 1
    assert said.count(f"made on commit {COMMIT}, and {OTHER} is required") == 2


def test_a_commit_that_is_no_whole_one_is_wrong_usage(gate: Gate) -> None:
    for option in ("--commit", "--megatron-commit"):
        assert gate(option, "abc") == (2, f"error: {option} abc: give all 40 digits, as `git rev-parse HEAD` prints them\n")


def test_changed_files_can_be_allowed(gate: Gate, tmp_path: Path) -> None:
    gate()
    junit.write(tmp_path / "results" / FILE, with_properties(dirty="true")(SUITE))
    save(tmp_path / "manifest.json", replace(MANIFEST, dirty="true"))
    assert gate()[0] == 1
    assert gate("--allow-dirty")[0] == 0


def test_a_job_that_was_skipped_is_red(gate: Gate) -> None:
    code, said = gate("--needs", '{"gpu": {"result": "skipped", "outputs": {}}}')
    assert code == 1
    assert said.startswith("red: job gpu: was skipped; a required job must run\n")


def test_jobs_that_all_succeeded_are_no_reason(gate: Gate) -> None:
    assert gate("--needs", '{"gpu": {"result": "success"}}')[0] == 0


def test_a_manifest_that_cannot_be_read_is_red_beside_the_jobs_that_failed(gate: Gate, tmp_path: Path) -> None:
    gate()
    (tmp_path / "manifest.json").write_text("")
    code, said = gate("--needs", '{"plan": {"result": "failure"}}')
    assert code == 1
    assert said.splitlines()[0] == "red: job plan: failed"
    assert "manifest.json: not JSON" in said.splitlines()[1]


def test_what_was_tried_again_is_said_though_it_is_green(gate: Gate, tmp_path: Path) -> None:
    gate()
    again = with_properties(attempts="4, 0", workflow_attempt="2")(SUITE)
    junit.write(tmp_path / "results" / FILE, again)
    junit.write(tmp_path / "results" / "attempts" / "1" / FILE, with_properties(broken="4")(SUITE))
    code, said = gate()
    assert code == 0
    assert said.startswith(f"tried again: {FILE}: ended with exit codes 4, 0; made in attempt 2 of the workflow's run\n")


def test_a_log_is_not_filled_with_reasons(gate: Gate, tmp_path: Path) -> None:
    gate()
    for number in range(300):
        shutil.copy(tmp_path / "results" / FILE, tmp_path / "results" / f"{number}.xml")
    code, said = gate()
    assert (code, said.count("\n")) == (1, 202)
    assert "and 100 more reasons\n" in said
