"""The comment's text to the letter, and the sentences that are said where none is written."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci import comment
from ci.cli import main
from ci.comment import _ours, body
from ci.diagnosis import Diagnosis
from ci.links import Links
from ci.page.run import judged
from ci.pull_request import Finished, finished, number
from tests.ci.runs import check, suite
from tests.workflows.pulls import COMMIT, FORK, HERE, RUN, Pulls, event, pull, serving
from validation.case.errors import UsageError

OF = Finished(RUN, 1, "pull_request", "failure", COMMIT, "topic", HERE)
SAYS = "relative error 6.96e-01 > 1e-10; scaled by 0.493543; worst at [2, 11, 15] on rank 0"


def test_the_whole_text_of_a_red_run() -> None:
    layouts = ("tp2", "tp2pp2", "tp2ep2", "tp2cp2", "tp2dp2", "tp4", "tp2vpp2pp2")
    suites = [suite(layout, (check("Layer 0 Value", "fail"),)) for layout in layouts]
    run = replace(judged([*suites, suite("pp2", (check("Loss", "error"),))], ["a.xml: not JUnit XML"]), diagnosis=None)
    assert body(run, "failure", OF, Links()) == (
        "<!-- plumbline comment -->\n"
        "## Plumbline: 🔴 RED\n"
        "\n"
        "8 cases, 8 checks: 7 fail, 1 not decided\n"
        "\n"
        "### First failure of each layout\n"
        "\n"
        "<code>Loss</code> in <code>pp2</code>\n"
        "\n"
        f"```text\n{SAYS}\n```\n"
        "\n"
        "<code>Layer 0 Value</code> in <code>tp2</code>, <code>tp2ep2</code>, <code>tp2cp2</code>, <code>tp2dp2</code>, "
        "<code>tp2pp2</code> and 2 more\n"
        "\n"
        f"```text\n{SAYS}\n```\n"
        "\n"
        "**What else is wrong**\n"
        "\n"
        "- <code>unreadable&#58; a&#46;xml&#58; not JUnit XML</code>\n"
        "\n"
        f"commit {COMMIT}\n"
    )


def test_the_whole_text_of_a_green_run_of_a_call_with_a_name() -> None:
    run = judged([suite(checks=(check("Loss"), check("Layer 0 Value", "known")))])
    assert body(
        run, "success", replace(OF, attempt=3), Links(report="https://a.example/o/n/actions/runs/1#artifacts"), "bf16"
    ) == (
        "<!-- plumbline comment bf16 -->\n"
        "## Plumbline bf16: 🟢 GREEN\n"
        "\n"
        "1 case, 2 checks: 1 pass, 1 with a known upstream bug\n"
        "\n"
        f"[the report, as an artifact](https://a.example/o/n/actions/runs/1#artifacts) · commit {COMMIT}, attempt 3\n"
    )


def test_a_green_gate_and_red_results_are_both_told_and_no_results_are_told_alone() -> None:
    red = replace(judged([suite(checks=(check("Loss", "fail"),))]), diagnosis=None)
    assert body(red, "success", OF, Links()).endswith(
        "\n\nThe gate is green, and these results are not. The gate judges what its manifest names; look at the report.\n\n"
        f"commit {COMMIT}\n"
    )
    assert body(judged([]), "timed_out", OF, Links()) == (
        "<!-- plumbline comment -->\n## Plumbline: ⚪ TIMED_OUT\n\nThe run has left no results. Its log says why.\n\n"
        f"commit {COMMIT}\n"
    )


def test_of_many_reasons_ten_are_told() -> None:
    run = judged([], [f"{number}.xml: a" for number in range(12)])
    assert body(run, "failure", OF, Links()).count("\n- ") == 10


@pytest.mark.parametrize(("length", "cut"), [(800, False), (801, True)])
def test_a_message_is_cut_at_800_characters(length: int, cut: bool) -> None:
    run = judged([suite(checks=(replace(check("Loss", "fail"), message="x" * length),))])
    assert bool(re.search("x(…|&#8230;)", body(run, "failure", OF, Links()))) is cut


@pytest.mark.parametrize(("length", "cut"), [(80, False), (81, True)])
def test_the_name_of_a_case_is_cut_at_80_characters(length: int, cut: bool) -> None:
    named = suite(checks=(check("Loss", "fail"),))
    named = replace(named, properties={**named.properties, "arrangement": "x" * length})
    assert bool(re.search("x(…|&#8230;)", body(replace(judged([named]), diagnosis=None), "failure", OF, Links()))) is cut


@pytest.mark.parametrize(("length", "cut"), [(500, False), (501, True)])
def test_a_reason_is_cut_at_500_characters(length: int, cut: bool) -> None:
    run = replace(judged([]), reasons=("x" * length,))
    assert bool(re.search("x(…|&#8230;)", body(run, "failure", OF, Links()))) is cut


@pytest.mark.parametrize(("length", "cut"), [(999, False), (1000, True)])
def test_a_diagnosis_is_cut_at_1000_characters(length: int, cut: bool) -> None:
    """With its full stop."""
    run = replace(judged([suite(checks=(check("Loss", "fail"),))]), diagnosis=Diagnosis("x" * length, ("a",), True))
    assert bool(re.search("x(…|&#8230;)", body(run, "failure", OF, Links()))) is cut


@pytest.mark.parametrize(("count", "more"), [(5, ""), (6, " and 1 more")])
def test_five_layouts_are_named(count: int, more: str) -> None:
    layouts = ("tp2", "tp2pp2", "tp2ep2", "tp2cp2", "tp2dp2", "tp4")[:count]
    said = body(judged([suite(layout, (check("Loss", "fail"),)) for layout in layouts]), "failure", OF, Links())
    assert f"</code>{more}\n\n```text" in said
    assert said.count("<code>tp") == 5


@pytest.mark.parametrize(("count", "said"), [(10, False), (11, True)])
def test_ten_failures_are_shown(count: int, said: bool) -> None:
    suites = [replace(suite(checks=(check(f"Layer {n} Value", "fail"),)), name=f"{n}") for n in range(count)]
    text = body(replace(judged(suites), diagnosis=None), "failure", OF, Links())
    assert text.count("```text") == 10
    assert ("\n\nand 1 more, which the report has\n\n" in text) is said
    assert ("which the report has" in text) is said


def test_a_case_without_checks_has_nothing_to_count() -> None:
    assert "\n1 case, 0 checks: nothing\n" in body(judged([suite(checks=())]), "failure", OF, Links())


def test_what_is_no_comment_is_passed_over() -> None:
    ours = {"id": 3, "body": "<!-- plumbline comment -->\na", "user": {"login": "b", "type": "Bot"}}
    silent = {**ours, "id": 2, "body": None}
    assert list(_ours([None, silent, {}, ours], "", "b")) == [(3, ours["body"])]


def test_a_part_is_left_out_as_soon_as_it_finds_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 characters are kept free: for the line that says so, and for what GitHub adds at line ends."""
    run = replace(judged([suite(checks=(check("Loss", "fail"),))], ["a.xml: b"]), diagnosis=None)
    whole = body(run, "failure", OF, Links())
    last = "**What else is wrong**\n\n- <code>unreadable&#58; a&#46;xml&#58; b</code>\n"
    ends = 3  # line ends that join the head and the last part with what is beside them
    monkeypatch.setattr(comment, "LONGEST", len(whole) + 200 - ends)
    assert body(run, "failure", OF, Links()) == whole
    monkeypatch.setattr(comment, "LONGEST", len(whole) + 199 - ends)
    assert body(run, "failure", OF, Links()) == whole.replace(last, "More is left out here. The report has it.\n")


@pytest.mark.parametrize(("length", "shown"), [(500, "x" * 500), (501, f"{'x' * 499}…")])
def test_why_none_is_written_is_cut_at_500_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], length: int, shown: str
) -> None:
    """A branch has the name that somebody gave it."""
    monkeypatch.setattr(comment, "finished", lambda environment: OF)
    monkeypatch.setattr(comment, "number", lambda run, environment: (0, "x" * length))
    assert main(["comment", "--results", "none"]) == 0
    assert capsys.readouterr().out == f"No comment is written: {shown}\n"


# --- Which pull request ---


def asked(run: Finished, *pulls: dict[str, Any], server: Pulls | None = None) -> tuple[int, str]:
    """What is found where these pull requests are."""
    state = server or Pulls(list(pulls))
    with serving(state) as address:
        return number(run, {"GITHUB_API_URL": address, "GITHUB_REPOSITORY": HERE, "GITHUB_TOKEN": "a token"})


def test_why_there_is_none_is_said_to_the_letter() -> None:
    where = f"branch topic of {HERE} at {COMMIT[:12]}"
    assert asked(OF) == (0, f"no open pull request is of {where}: it was closed, or something newer was pushed")
    assert asked(OF, pull(7), pull(8)) == (
        0,
        f"2 open pull requests are of {where}, and the run does not say which of them it was for",
    )
    assert asked(replace(OF, event="push")) == (0, "the run was started by push, which is no pull request")
    assert asked(OF, pull(7)) == (7, "")


def test_one_behind_a_hundred_others_of_the_branch_is_found() -> None:
    others = [pull(number, commit="d" * 40) for number in range(100, 220)]
    assert asked(OF, *others, pull(7)) == (7, "")


def told(folder: Path, content: object, name: str | None = "workflow_run") -> Finished:
    (folder / "event.json").write_text(json.dumps(content), encoding="utf-8")
    environment = {"GITHUB_EVENT_PATH": str(folder / "event.json")} | ({"GITHUB_EVENT_NAME": name} if name else {})
    return finished(environment)


def test_the_event_is_read_whole(tmp_path: Path) -> None:
    found = told(tmp_path, event(FORK, head_branch="a/b", run_attempt=2))
    assert found == Finished(RUN, 2, "pull_request", "failure", COMMIT, "a/b", FORK)
    assert told(tmp_path, event(head_branch=None)).branch == ""
    assert told(tmp_path, event(head_sha="a" * 64)).commit == "a" * 64


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("push", "GITHUB_EVENT_NAME is push; this runs in a workflow that `on: workflow_run` starts"),
        (None, "GITHUB_EVENT_NAME is not set; this runs in a workflow that `on: workflow_run` starts"),
    ],
)
def test_another_event_is_refused_to_the_letter(tmp_path: Path, name: str | None, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        told(tmp_path, event(), name)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "GITHUB_EVENT_PATH names no event of the kind workflow_run (KeyError('workflow_run')); GitHub writes that file"),
        (
            event(head_sha="a"),
            "GITHUB_EVENT_PATH: no commit or no repository in the event workflow_run; GitHub writes that file",
        ),
        (
            event(head_repository=None),
            "GITHUB_EVENT_PATH: no commit or no repository in the event workflow_run; GitHub writes that file",
        ),
    ],
)
def test_an_event_without_what_is_needed_is_refused_to_the_letter(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        told(tmp_path, content)
    assert str(raised.value) == said
