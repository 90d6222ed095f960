"""The gate at its edges: what a log shows of many or long reasons, and each number exactly at its limit."""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit
from ci.cli import main
from ci.expected import Manifest
from ci.gate import MOST_SAID, Judgement, add_judging_options, judge, tried_again
from ci.junit import Check
from ci.numbers import number
from ci.reasons import Origin, of_suite, verdicts
from tests.ci.green import (
    CHECKS,
    COMMIT,
    EXPECTED,
    FILE,
    MANIFEST,
    NUMBERS,
    SUITE,
    command_line,
    limited,
    of_changed,
    verdict,
    with_check,
    with_checks,
    with_properties,
)

OTHER = "b" * 40


def gate(folder: Path, capsys: pytest.CaptureFixture[str], *words: str, anew: bool = True) -> str:
    """What the command says."""
    main(["gate", *command_line(folder, anew=anew), *words])
    return capsys.readouterr().out


def test_two_reasons_are_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = gate(tmp_path, capsys, "--needs", '{"a": {"result": "failure"}, "b": {"result": "failure"}}')
    assert said == (
        "red: job a: failed\nred: job b: failed\n"
        "===== Gate: RED, 2 reasons (1 testsuite, 4 checks: 3 pass, 1 with a known upstream bug) =====\n"
    )


@pytest.mark.parametrize("more", [0, 1])
def test_as_many_reasons_as_a_log_shows_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: int) -> None:
    """One more is counted."""
    needs = json.dumps({f"job {count}": {"result": "failure"} for count in range(MOST_SAID + more)})
    said = gate(tmp_path, capsys, "--needs", needs)
    assert said.count("red: ") == MOST_SAID
    assert ("and 1 more reason\n" in said) is bool(more)
    assert ("more reason" in said) is bool(more)


def test_a_long_reason_is_cut_and_its_place_sooner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two hundred characters of where, a thousand of why."""
    needs = json.dumps({"j" * 600: {"result": "r" * 3000}})
    line = gate(tmp_path, capsys, "--needs", needs).splitlines()[0]
    where, _, why = line.removeprefix("red: ").partition(": ")
    assert (len(where), len(why)) == (200, 1000)


def test_where_a_reason_is_ends_with_the_first_colon(tmp_path: Path) -> None:
    """What a job's result says may have more of them."""
    given = {"manifest": str(tmp_path / "m"), "results": str(tmp_path), "commit": None, "megatron_commit": None}
    options = Namespace(**given, needs='{"a": {"result": "x: y"}}', allow_dirty=False, coverage=None)
    assert judge(options).reasons[0] == ("job a", "ended with 'x: y', which is not success")


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"attempts": "4, 0"}, "ended with exit codes 4, 0"),
        ({"workflow_attempt": "2"}, "made in attempt 2 of the workflow's run"),
        ({"attempts": "4, 0", "workflow_attempt": "2"}, "ended with exit codes 4, 0; made in attempt 2 of the workflow's run"),
    ],
)
def test_what_was_tried_again_is_told_by_whom(properties: dict[str, str], said: str) -> None:
    """Of two testsuites the one that was."""
    again = with_properties(**properties)(SUITE)
    assert tried_again(Judgement((), ((EXPECTED, SUITE), (EXPECTED, again)))) == [(FILE, said)]


def test_what_was_tried_again_is_on_a_line_of_its_own_and_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_line(tmp_path)
    junit.write(tmp_path / "results" / FILE, with_properties(workflow_attempt="9" * 3000)(SUITE))
    line = gate(tmp_path, capsys, anew=False).splitlines()[0]
    assert line.startswith(f"tried again: {FILE}: made in attempt 999")
    assert len(line) < 400


def test_a_long_place_is_cut_where_something_was_tried_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a reason: 200 characters."""
    again = with_properties(attempts="4, 0")(SUITE)
    told = Judgement((), ((replace(EXPECTED, file="f" * 600), again),))
    monkeypatch.setattr("ci.gate.judge", lambda options: told)
    main(["gate", "--manifest", "m", "--results", "r"])
    where, _, said = capsys.readouterr().out.splitlines()[0].removeprefix("tried again: ").partition(": ")
    assert (len(where), said) == (200, "ended with exit codes 4, 0")


def test_a_run_that_never_ended_is_red_with_its_own_sentence(tmp_path: Path) -> None:
    """The file that stands until the end, as it is written: whatever else is wrong with it follows from that."""
    junit.write_unfinished(tmp_path / FILE, SUITE.name, SUITE.properties)
    assert [why for _, why in verdict(tmp_path).reasons] == ["did not finish: the run was killed, or is still going"]
    assert junit.read(tmp_path / FILE).checks == (Check("run", "run", "error", message="did not finish", failure="unfinished"),)


@pytest.mark.parametrize(
    ("properties", "red"),
    [
        pytest.param({"rel_error": "1e-10", "tolerance": "1e-10"}, False, id="at the limit"),
        pytest.param({"rel_error": "1.1e-10", "tolerance": "1e-10"}, True, id="above it"),
        pytest.param({"rel_error": "0", "tolerance": "0"}, False, id="equal"),
        pytest.param({"rel_error": "0.0", "tolerance": "nan"}, True, id="a limit that is none"),
        pytest.param({"rel_error": "0.0", "tolerance": "-1e-10"}, True, id="a limit below zero"),
        pytest.param({"rel_error": "inf", "tolerance": "inf"}, True, id="infinite"),
        pytest.param({"rel_error": "1e-5", "tolerance": ""}, True, id="an empty limit"),
        pytest.param({"rel_error": "", "tolerance": "1e-10"}, True, id="an empty number"),
        pytest.param({"rel_error": "\u0660", "tolerance": "\uff11e-10"}, True, id="digits of other scripts"),
    ],
)
def test_a_pass_is_believed_up_to_its_limit(tmp_path: Path, properties: dict[str, str], red: bool) -> None:
    """In fp64, whose limits the manifest knows."""
    said = of_changed(tmp_path, with_check(1, properties={**NUMBERS, **properties}))
    assert any("above the limit or no numbers" in why for why in said) is red


@pytest.mark.parametrize(("error", "red"), [("0.5", True), ("1e-3", False), ("0.01", False)])
def test_below_fp64_a_pass_is_believed_up_to_its_own_limit(tmp_path: Path, error: str, red: bool) -> None:
    """Nobody knows the limits before the reference is there; that a number is above its own is plain all the same."""
    junit.write(tmp_path / FILE, with_check(1, properties={**NUMBERS, "rel_error": error, "tolerance": "0.01"})(SUITE))
    assert bool(verdict(tmp_path, Manifest((limited(0.5),), COMMIT, "false")).reasons) is red


@pytest.mark.parametrize(("tolerance", "red"), [("1e-10", False), ("1.1e-10", True), ("1", True)])
def test_a_limit_may_be_as_wide_as_the_manifest_says(tmp_path: Path, tolerance: str, red: bool) -> None:
    said = of_changed(tmp_path, with_check(1, properties={**NUMBERS, "tolerance": tolerance}))
    assert said == (["1 check passes: Layer 0 Query (mla) under a limit above 1e-10"] if red else [])


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1.0), ("-1.5e-3", -1.5e-3), ("1e+300", 1e300), ("inf", float("inf")), ("-inf", -float("inf")), ("2.5e-15", 2.5e-15)],
)
def test_numbers_are_read_as_python_writes_them(text: str, value: float) -> None:
    assert number(Check("a", "b", "pass", properties={"n": text}), "n") == value


@pytest.mark.parametrize("text", ["nan", "1_0", " 1", "1 ", "0x1", "1e", "infinity", "NaN", "1e1000", "+1", ".5", "1" * 21])
def test_whatever_else_stands_in_a_number_s_place_is_none(text: str) -> None:
    """NaN, which holds no limit; a property that is not there is something else."""
    found = number(Check("a", "b", "pass", properties={"n": text}), "n")
    assert found is not None
    assert math.isnan(found)
    assert number(Check("a", "b", "pass"), "n") is None


@pytest.mark.parametrize(
    ("silent", "said"),
    [
        (1, "3 ranks are declared, and nothing is there of rank 2"),
        (3, "5 ranks are declared, and nothing is there of rank 2, 3, 4"),
        (4, "6 ranks are declared, and nothing is there of rank 2, 3, 4 and 1 more"),
    ],
)
def test_ranks_that_are_silent_are_three_and_a_number(silent: int, said: str) -> None:
    expected = replace(EXPECTED, ranks=2 + silent)
    assert list(of_suite(expected, SUITE, Origin(COMMIT))) == [said]


def test_many_failures_are_counted_and_the_first_in_the_flow_of_data_is_said(tmp_path: Path) -> None:
    """Three names, in the order of the file; the first is nearest to the cause."""
    failing = [replace(CHECKS[1], name=f"Layer {at} Key", status="fail", message=f"FAIL: {at}") for at in range(5)]
    failing[0] = replace(failing[0], message="FAIL: 0 - off\nand more")
    junit.write(tmp_path / FILE, with_checks(CHECKS[0], *failing)(SUITE))
    wanted = tuple((check.component, check.name) for check in (CHECKS[0], *failing))
    manifest = Manifest((replace(EXPECTED, checks=wanted),), COMMIT, "false")
    names = ", ".join(f"Layer {at} Key (mla)" for at in (0, 1, 2))
    assert [why for _, why in verdict(tmp_path, manifest).reasons] == [
        f"5 checks fail: {names} and 2 more; the first in the flow of data: FAIL: 0 - off"
    ]


def test_several_of_a_kind_are_said_as_several(tmp_path: Path) -> None:
    """Checks that are missing, not decided, skipped, twice, without a number or under a limit that is too wide."""
    said = {}
    spoilt: dict[str, dict[str, object]] = {
        "errors": {"status": "error", "message": "ERROR: a"},
        "skips": {"status": "known", "message": "flaky"},
        "numbers": {"properties": {**NUMBERS, "rel_error": "1"}},
        "silent": {"properties": {"ranks": "0,1"}},
        "loose": {"properties": {**NUMBERS, "tolerance": "1e-3"}},
        "upstream": {"status": "fail", "message": "passes, though it shows the known upstream bug a"},
    }
    for name, changed in spoilt.items():
        suite = SUITE
        for at in (1, 2):
            suite = with_check(at, **changed)(suite)
        junit.write(tmp_path / FILE, suite)
        (said[name],) = [why for _, why in verdict(tmp_path).reasons if "Layer 0 Query" in why]
    both = "Layer 0 Query (mla), Layer 0 Key (mla)"
    assert said == {
        "errors": f"2 checks could not be decided: {both} (ERROR: a)",
        "skips": f"2 checks are skipped: {both} for a bug that validation/run/known.yaml does not list for it",
        "numbers": f"2 checks pass: {both}, though the numbers are above the limit or no numbers",
        "silent": f"2 checks pass: {both} without a number",
        "loose": f"2 checks pass: {both} under a limit above 1e-10",
        "upstream": f"2 checks of known upstream bugs pass: {both}; "
        "if upstream is mended, remove the entry from validation/run/known.yaml",
    }


def test_several_checks_that_are_missing_there_twice_or_unknown_are_said_as_several(tmp_path: Path) -> None:
    strange = [replace(CHECKS[1], name=f"Layer {at} Key") for at in (8, 9)]
    assert of_changed(tmp_path, with_checks(CHECKS[0], CHECKS[3], *strange, *strange)) == [
        "2 checks are missing: Layer 0 Query (mla), Layer 0 Key (mla)",
        "2 checks are there that nobody expects: Layer 8 Key (mla), Layer 9 Key (mla)",
        "2 checks are there more than once: Layer 8 Key (mla), Layer 9 Key (mla)",
    ]


@pytest.mark.parametrize("commit", [OTHER, ""])
def test_a_megatron_checkout_without_its_folder_or_commit_is_not_the_one_that_is_wanted(tmp_path: Path, commit: str) -> None:
    """Each of the two by itself says nothing."""
    junit.write(tmp_path / FILE, with_properties(megatron_commit=OTHER)(SUITE))
    assert [why for _, why in verdict(tmp_path, origin=Origin(COMMIT, commit)).reasons] == [
        f"made with the Megatron {OTHER}, and {commit or 'the installed one'} is required"
    ]


def test_another_library_s_version_is_asked_for_beside_a_checkout(tmp_path: Path) -> None:
    """Megatron's alone is not."""
    change = with_properties(torch="2.12.0", megatron_core="0.99", megatron_path="a", megatron_commit=OTHER)
    junit.write(tmp_path / FILE, change(SUITE))
    said = [why for _, why in verdict(tmp_path, origin=Origin(COMMIT, OTHER)).reasons]
    assert said[0] == "made with torch 2.12.0, and >=2.13.0 is required"
    assert not any("0.99" in why for why in said)


def test_every_wrong_property_is_said(tmp_path: Path) -> None:
    assert of_changed(tmp_path, with_properties(transport="nccl", preset=None)) == [
        "does not say its preset, and tiny is required",
        "made with transport nccl, and gloo is required",
    ]


@pytest.mark.parametrize("name", ["a" * 64, "a" * 63, "g" * 40, "a" * 41])
def test_a_commit_has_40_digits_or_64(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    code = main(["gate", *command_line(tmp_path), "--commit", name])
    assert code == (1 if name == "a" * 64 else 2)


def test_results_are_counted_by_what_they_are(tmp_path: Path) -> None:
    """Each kind in its words, none where there is none, and testsuites in the plural."""
    checks = [
        replace(CHECKS[1], name=f"{at}", status=status) for at, status in enumerate(["fail", "error", "known", "pass"] * 2)
    ]
    suite = replace(SUITE, checks=tuple(checks))
    assert Judgement((), ((EXPECTED, suite), (EXPECTED, SUITE))).counted == (
        "2 testsuites, 12 checks: 5 pass, 2 fail, 2 not decided, 3 with a known upstream bug"
    )
    assert Judgement((), ()).counted == "0 testsuites, 0 checks: nothing"


def test_files_named_twice_are_told_by_their_session(tmp_path: Path) -> None:
    """The same name in another session is another file; three times are no less wrong than twice."""
    suites = (replace(EXPECTED, session="a"), *[replace(EXPECTED, session="b")] * 3)
    found = verdict(tmp_path, replace(MANIFEST, suites=suites))
    assert [why for where, why in found.reasons if where == "manifest"] == [f"names {FILE} of session 'b' twice"]


def test_a_manifest_that_cannot_be_read_is_said_of_the_manifest(tmp_path: Path) -> None:
    """Beside the jobs."""
    given = {"manifest": str(tmp_path / "m"), "results": str(tmp_path), "commit": None, "megatron_commit": None}
    found = judge(Namespace(**given, needs='{"a": {"result": "failure"}}', allow_dirty=False, coverage=None))
    assert [where for where, _ in found.reasons] == ["job a", "manifest"]
    assert found.suites == ()


def test_every_testsuite_that_was_tried_again_is_told() -> None:
    again = with_properties(attempts="4, 0")(SUITE)
    suites = tuple((replace(EXPECTED, file=f"{name}.xml"), again) for name in "ab")
    assert [file for file, _ in tried_again(Judgement((), suites))] == ["a.xml", "b.xml"]


@pytest.mark.parametrize(("without", "more"), [("", ""), ("the page is of all", "; the page is of all")])
def test_a_manifest_is_asked_for_unless_a_command_goes_on_without(without: str, more: str) -> None:
    """And the help says what it does then."""
    parser = ArgumentParser()
    add_judging_options(parser, without)
    (manifest,) = [action for action in parser._actions if "--manifest" in action.option_strings]
    assert (manifest.help, manifest.required) == (f"what python -m ci manifest wrote{more}", not without)


def test_a_gate_needs_its_manifest() -> None:
    """By default."""
    parser = ArgumentParser()
    add_judging_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--results", "r"])


def test_what_comes_behind_a_file_that_cannot_be_read_is_judged_too(tmp_path: Path) -> None:
    """Each testsuite has its own reasons."""
    suites = tuple(replace(EXPECTED, session=session) for session in "abc")
    junit.write(tmp_path / "results-b" / FILE, with_properties(dirty="true")(SUITE))
    junit.write(tmp_path / "results-c" / FILE, with_properties(plugin="p")(SUITE))
    found = verdict(tmp_path, replace(MANIFEST, suites=suites))
    assert [where for where, _ in found.reasons] == [f"results-{session}/{FILE}" for session in "abc"]
    assert len(found.suites) == 2


def test_libraries_behind_megatron_s_are_asked_for_beside_a_checkout_too(tmp_path: Path) -> None:
    """In whatever order the manifest has them."""
    change = with_properties(torch="2.12.0", megatron_path="a", megatron_commit=OTHER)
    junit.write(tmp_path / FILE, change(SUITE))
    expected = replace(EXPECTED, requires=("megatron-core==0.16.1", "torch>=2.13.0"))
    found = verdict(tmp_path, Manifest((expected,), COMMIT, "false"), Origin(COMMIT, OTHER))
    assert "made with torch 2.12.0, and >=2.13.0 is required" in [why for _, why in found.reasons]


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ((1,), "1 check passes: Layer 0 Query (mla)"),
        ((1, 2), "2 checks pass: Layer 0 Query (mla), Layer 0 Key (mla)"),
    ],
)
def test_what_must_be_equal_passes_under_no_limit_above_zero(tmp_path: Path, checks: tuple[int, ...], said: str) -> None:
    """Whatever is within it; a check that need not be equal may."""
    junit.write(tmp_path / FILE, SUITE)
    found = verdict(tmp_path, Manifest((limited(0.0, *checks),), COMMIT, "false"))
    assert found.reasons == ((FILE, f"{said} under a limit above 0"),)


def test_whose_self_test_is_missing_is_said_by_the_session(tmp_path: Path) -> None:
    """A file of that name in another session is not it."""
    there = replace(EXPECTED, file="self-test.xml", session="b")
    manifest = replace(MANIFEST, suites=(EXPECTED, there), self_tests={"a": "self-test.xml", "b": "self-test.xml"})
    said = [why for where, why in verdict(tmp_path, manifest).reasons if where == "manifest"]
    assert said == ["says that session a tests itself, and names no check of self-test.xml"]


@pytest.mark.parametrize(
    ("error", "limit", "projection", "believed"),
    [
        pytest.param("0.0", "1e-10", "0.0", True, id="nothing to project on"),
        pytest.param("5e-11", "1e-10", "0.99999999995", True, id="within the limit"),
        pytest.param("5e-11", "1e-10", "0.9999999998", False, id="below"),
        pytest.param("5e-11", "1e-10", "1.0000000002", False, id="above"),
        pytest.param("5e-11", "1e-10", "-1.0", False, id="turned around"),
        pytest.param(repr(2.0**-40), repr(2.0**-34), repr(1 + 2.0**-34), True, id="just at the limit"),
        pytest.param("1e-17", "1e-16", repr(1 + 2.0**-50), True, id="the last place of a number near 1"),
        pytest.param("5e-11", "1e-10", "nan", False, id="no number"),
    ],
)
def test_a_pass_is_believed_if_its_projection_is_one(
    tmp_path: Path, error: str, limit: str, projection: str, believed: bool
) -> None:
    """As far as its limit lets it be something else; an error of 0 has nothing to say of it."""
    numbers = {**NUMBERS, "rel_error": error, "tolerance": limit, "projection": projection}
    numbers |= {"max_diff": "0.0", "avg_diff": "0.0"} if error == "0.0" else {}
    said = "1 check passes: Layer 0 Query (mla), though the numbers are above the limit or no numbers"
    assert of_changed(tmp_path, with_check(1, properties=numbers)) == ([] if believed else [said])


def test_json_has_the_counts_of_green_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All else is on standard error."""
    assert main(["gate", *command_line(tmp_path), "--format", "json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "schema": 1,
        "command": "gate",
        "testsuites": 1,
        "counts": {"pass": 3, "known": 1},
        "reasons": [],
        "verdict": "PASS",
        "exit_code": 0,
    }
    assert "===== Gate: GREEN (1 testsuite, 4 checks: 3 pass, 1 with a known upstream bug) =====" in said.err


def test_json_has_every_reason_cut_as_in_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs = json.dumps(
        {"b" * 300: {"result": "failure" * 300}, **{f"j{number}": {"result": "x"} for number in range(MOST_SAID)}}
    )
    assert main(["gate", *command_line(tmp_path), "--format=json", "--needs", needs]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["exit_code"], len(said["reasons"])) == ("FAIL", 1, MOST_SAID + 1)
    longest = max(said["reasons"], key=lambda reason: len(reason["why"]))
    assert (len(longest["where"]), len(longest["why"])) == (200, 1000)


def test_wrong_usage_is_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence of a command that did not judge."""
    assert main(["gate", *command_line(tmp_path), "--format", "json", "--commit", "abc"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["error"]) == (
        "ERROR",
        "--commit abc: give all 40 digits, as `git rev-parse HEAD` prints them",
    )
    assert main(["gate", "--format", "json", "--manifest", "m"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "the following arguments are required: --results"


@pytest.mark.parametrize(
    ("message", "said"), [("", ""), ("FAIL: a - b\nmore", "; the first in the flow of data: FAIL: a - b"), ("\nmore", "")]
)
def test_a_failure_without_a_message_is_counted_alone(message: str, said: str) -> None:
    assert list(verdicts([Check("mla", "a", "fail", message=message)])) == [f"1 check fails: a (mla){said}"]
