"""The comment in a pull request: written once, kept current, in the right place, and nothing in it is markup of a stranger."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci import comment, junit
from ci.cli import main
from ci.comment import LONGEST, body
from ci.junit import Suite
from ci.links import Links
from ci.page.read import MOST_FILES, suites
from ci.page.run import judged
from ci.pull_request import Finished
from tests.ci.runs import check, suite
from tests.ci.test_hostile import NAMES
from tests.workflows.pulls import BOT, COMMIT, FORK, HERE, RUN, Pulls, event, pull, serving

FAILED = suite("tp2", (check("Layer 0 Value"), check("Layer 0 Attention Output", "fail")))
SOUND = suite("pp2", (check("Layer 0 Value"), check()))
OF = Finished(RUN, 1, "pull_request", "failure", COMMIT, "topic", HERE)
RUN_ADDRESS = "https://github.example/o/n/actions/runs/77"
TO = Links(RUN_ADDRESS, "https://github.example/o/plumbline/blob/main/docs", f"{RUN_ADDRESS}#artifacts")
Run = Callable[..., int]


@pytest.fixture
def github() -> Iterator[tuple[Pulls, str]]:
    state = Pulls()
    with serving(state) as address:
        yield state, address


@pytest.fixture
def run(github: tuple[Pulls, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command after a run that left these suites, with this event."""
    for name, value in {
        "GITHUB_API_URL": github[1],
        "GITHUB_REPOSITORY": HERE,
        "GITHUB_SERVER_URL": "https://github.example",
        "GITHUB_RUN_ID": "99",
        "GITHUB_TOKEN": "a token",
        "GITHUB_EVENT_NAME": "workflow_run",
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        "PLUMBLINE_REPOSITORY": "plumbline/plumbline",
        "PLUMBLINE_REF": "abc",
    }.items():
        monkeypatch.setenv(name, value)

    def started(*words: str, suites: tuple[Suite, ...] = (FAILED, SOUND), of: dict[str, Any] | None = None) -> int:
        for one in suites:
            junit.write(tmp_path / "results" / "results-parity" / f"{one.name}.xml", one)
        (tmp_path / "event.json").write_text(json.dumps(of or event()), encoding="utf-8")
        return main(["comment", "--results", str(tmp_path / "results"), *words])

    return started


def text(*suites: Suite, verdict: str = "failure") -> str:
    """The comment about these suites."""
    return body(judged(suites), verdict, OF, TO)


# --- Where it goes ---


def test_a_new_comment_is_written_and_the_next_run_changes_it(
    github: tuple[Pulls, str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    state, _ = github
    state.write("Thank you!", {"login": "somebody", "type": "User"})
    assert run() == 0
    assert capsys.readouterr().out == "Pull request 7: the comment is written\n"
    assert run(suites=(SOUND, replace(FAILED, checks=FAILED.checks[:1])), of=event(conclusion="success")) == 0
    assert capsys.readouterr().out == "Pull request 7: the comment is changed\n"
    assert [one["body"].splitlines()[1] for one in state.comments[1:]] == ["## Plumbline: 🟢 GREEN"]
    assert run(suites=(), of=event(conclusion="success")) == 0
    assert capsys.readouterr().out == "Pull request 7: the comment is current\n"
    assert [one for one in state.asked if not one.startswith("GET")] == ["POST issues/7/comments", "PATCH issues/comments/1001"]


def test_nobody_elses_comment_is_changed_whatever_it_begins_with(github: tuple[Pulls, str], run: Run) -> None:
    state, _ = github
    assert run() == 0
    ours = state.comments.pop()["body"]
    state.write(ours, {"login": "somebody", "type": "User"})
    state.write(ours, {"login": "github-actions[bot]", "type": "User"})
    state.write(ours, {"login": "another[bot]", "type": "Bot"})
    state.write(f"> {ours}", BOT)
    state.write(ours.replace(" -->", " bf16 -->"), BOT)
    before = [one["body"] for one in state.comments]
    assert run(of=event(conclusion="success")) == 0
    assert [one["body"] for one in state.comments[:-1]] == before
    assert "GREEN" in state.comments[-1]["body"]


def test_a_comment_behind_a_hundred_others_is_found(github: tuple[Pulls, str], run: Run) -> None:
    state, _ = github
    for number in range(150):
        state.write(f"{number}", {"login": "somebody", "type": "User"})
    assert run() == 0
    assert run(of=event(conclusion="success")) == 0
    assert len(state.comments) == 151


def test_each_call_of_a_workflow_has_a_comment_of_its_own(github: tuple[Pulls, str], run: Run) -> None:
    state, _ = github
    for _ in range(2):
        for words in ([], ["--name", "bf16"]):
            assert run(*words) == 0
    assert [one["body"].splitlines()[:2] for one in state.comments] == [
        ["<!-- plumbline comment -->", "## Plumbline: 🔴 RED"],
        ["<!-- plumbline comment bf16 -->", "## Plumbline bf16: 🔴 RED"],
    ]


def test_a_comment_that_was_deleted_meanwhile_is_written_anew(github: tuple[Pulls, str], run: Run) -> None:
    state, _ = github
    assert run() == 0
    state._changed = lambda number, text: None  # type: ignore[method-assign]
    assert run(of=event(conclusion="success")) == 0
    assert len(state.comments) == 2


def test_a_forks_pull_request_is_found_by_its_branch_and_commit(
    github: tuple[Pulls, str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours may have a branch of that name, and the fork others: one must not write into another's."""
    state, _ = github
    state.pulls[:] = [pull(7), pull(8, FORK), pull(9, FORK, branch="other"), pull(10, "somebody/else")]
    assert run(of=event(FORK)) == 0
    assert [one["issue"] for one in state.comments] == [8]


@pytest.mark.parametrize(
    ("pulls", "changed", "said"),
    [
        ([], {}, "no open pull request is of branch topic of plumbline/plumbline at c0ffee000000"),
        ([pull(commit="d" * 40)], {}, "it was closed, or something newer was pushed"),
        ([pull(base=FORK)], {}, "no open pull request is of branch topic"),
        ([{**pull(), "state": "closed"}], {}, "no open pull request is of branch topic"),
        ([{**pull(), "head": {**pull()["head"], "repo": None}}], {}, "no open pull request is of branch topic"),
        ([pull(7), pull(8)], {}, "2 open pull requests are of branch topic"),
        ([pull()], {"event": "merge_group"}, "the run was started by merge_group, which is no pull request"),
        ([pull()], {"head_branch": "a\n::error::b"}, "no open pull request is of branch a ::error::b of"),
    ],
)
def test_where_there_is_no_pull_request_nothing_is_written_and_a_sentence_says_why(
    github: tuple[Pulls, str],
    run: Run,
    capsys: pytest.CaptureFixture[str],
    pulls: list[dict[str, Any]],
    changed: dict[str, str],
    said: str,
) -> None:
    state, _ = github
    state.pulls[:] = pulls
    assert run(of=event(**changed)) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("No comment is written: ")
    assert said in line
    assert state.comments == []


def test_the_verdict_is_that_of_the_gates_job_and_not_of_the_results(github: tuple[Pulls, str], run: Run) -> None:
    state, _ = github
    state.jobs += [{"name": f"other {number}", "conclusion": "failure"} for number in range(120)]
    state.jobs.append({"name": "plumbline / gate", "conclusion": "success"})
    assert run(suites=(SOUND,)) == 0
    assert "GREEN" in state.comments[0]["body"]
    state.jobs[-1]["conclusion"] = "cancelled"
    assert run() == 0
    assert "## Plumbline: ⚪ CANCELLED" in state.comments[0]["body"]
    state.jobs.append({"name": "team / gate", "conclusion": "failure"})
    assert run("--gate", "team / gate") == 0
    assert "RED" in state.comments[0]["body"]


def test_results_that_contradict_a_green_gate_are_shown_with_a_word_about_it(github: tuple[Pulls, str], run: Run) -> None:
    assert run(of=event(conclusion="success")) == 0
    said = github[0].comments[0]["body"]
    assert "GREEN" in said
    assert "The gate is green, and these results are not." in said
    assert "<code>Layer 0 Attention Output</code>" in said


def test_it_can_be_printed_and_nothing_is_written(
    github: tuple[Pulls, str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--print") == 0
    assert capsys.readouterr().out.startswith("<!-- plumbline comment -->\n## Plumbline: 🔴 RED\n")
    assert github[0].comments == []


# --- What is wrong with how it is called ---


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("GITHUB_EVENT_NAME", "pull_request", "GITHUB_EVENT_NAME is pull_request; this runs in a workflow that"),
        ("GITHUB_EVENT_NAME", None, "GITHUB_EVENT_NAME is not set"),
        ("GITHUB_EVENT_PATH", "/nowhere", "GITHUB_EVENT_PATH names no event of the kind workflow_run"),
        ("GITHUB_EVENT_PATH", None, "GITHUB_EVENT_PATH names no event of the kind workflow_run"),
        ("GITHUB_TOKEN", None, "GITHUB_TOKEN is not set"),
    ],
)
def test_outside_of_such_a_workflow_one_sentence_says_so(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str | None,
    sentence: str,
) -> None:
    monkeypatch.delenv(variable) if value is None else monkeypatch.setenv(variable, value)
    assert run() in (2, 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


@pytest.mark.parametrize("changed", [{"head_sha": "main"}, {"head_repository": None}, {"id": "a/b"}, {"run_attempt": None}])
def test_an_event_that_is_none_is_refused(run: Run, capsys: pytest.CaptureFixture[str], changed: dict[str, Any]) -> None:
    assert run(of=event(**changed)) == 2
    assert "GitHub writes that file" in capsys.readouterr().err


def test_a_name_that_could_end_the_marker_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--name", "a --> b") == 2
    assert "use letters, digits, - and _" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_token_that_may_not_is_an_error_of_the_environment(
    github: tuple[Pulls, str], run: Run, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    github[0].refused = (method,)
    assert run() == 3
    assert "GitHub answers 403" in capsys.readouterr().err


def test_a_pull_request_that_is_gone_when_it_is_written_to_is_said(
    github: tuple[Pulls, str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    github[0]._made = lambda issue, text: None  # type: ignore[method-assign]
    assert run() == 3
    assert "GitHub knows no pull request 7" in capsys.readouterr().err


# --- What it says ---


def test_it_says_the_verdict_the_diagnosis_the_first_failures_and_where_to_go_on() -> None:
    said = text(FAILED, SOUND, suite("tp2pp2", FAILED.checks))
    lines = said.splitlines()
    assert lines[:4] == ["<!-- plumbline comment -->", "## Plumbline: 🔴 RED", "", "3 cases, 6 checks: 4 pass, 2 fail"]
    assert re.search(r"^> Every layout with tp fails .*first at Layer 0 Attention Output", said, re.MULTILINE)
    assert "<code>Layer 0 Attention Output</code> in <code>tp2</code>, <code>tp2pp2</code>\n\n```text\nrelative error" in said
    page = "https://github.example/o/plumbline/blob/main/docs/words-in-failures.md"
    words = ("relative error", "scaled by", "worst at")
    assert lines[lines.index("```", lines.index("```text")) + 2] == "What it means: " + ", ".join(
        f"[{word}]({page}#{word.replace(' ', '-')})" for word in words
    )
    assert said.count("What it means") == 1
    how = {"reproduce": "python -m validation run --layouts tp2 --megatron-path /there"}
    again = text(replace(FAILED, checks=tuple(replace(one, properties={**one.properties, **how}) for one in FAILED.checks)))
    assert '```sh\npython -m validation run --layouts tp2 --megatron-path "$MEGATRON"\n```' in again
    assert "What it means" not in body(judged([FAILED], []), "failure", OF, Links())
    assert lines[-1] == (
        "[the report, as an artifact](https://github.example/o/n/actions/runs/77#artifacts) · [what to do with a first red "
        f"check](https://github.example/o/plumbline/blob/main/docs/first-red-check.md) · commit {COMMIT}"
    )


def test_a_green_comment_does_not_say_what_to_do_with_a_red_check() -> None:
    assert "first-red-check" not in text(SOUND, verdict="success")
    assert "first-red-check" in text(SOUND, verdict="cancelled")


def test_the_links_are_to_the_run_that_has_ended(github: tuple[Pulls, str], run: Run) -> None:
    assert run() == 0
    said = github[0].comments[0]["body"]
    assert f"https://github.example/{HERE}/actions/runs/{RUN}#artifacts" in said
    assert "https://github.example/plumbline/plumbline/blob/abc/docs/first-red-check.md" in said


def test_without_results_it_says_so(github: tuple[Pulls, str], run: Run) -> None:
    assert run(suites=(), of=event(conclusion="cancelled")) == 0
    assert "⚪ CANCELLED" in github[0].comments[0]["body"]
    assert "The run has left no results. Its log says why." in github[0].comments[0]["body"]


def test_a_file_that_cannot_be_read_is_named(github: tuple[Pulls, str], run: Run, tmp_path: Path) -> None:
    (tmp_path / "results" / "results-a").mkdir(parents=True)
    (tmp_path / "results" / "results-a" / "a.xml").write_text("<!DOCTYPE a [<!ENTITY b 'c'>]>")
    assert run() == 0
    assert "unreadable&#58; a&#46;xml&#58; declares entities" in github[0].comments[0]["body"]


def test_no_more_files_are_read_than_a_run_leaves(tmp_path: Path) -> None:
    for number in range(MOST_FILES + 2):
        (tmp_path / f"{number}.xml").write_text("<")
    found, unreadable = suites(tmp_path)
    assert (found, len(unreadable)) == ([], MOST_FILES + 1)
    assert unreadable[-1] == "2 more files, which were not read"


def test_many_different_failures_are_cut_and_counted() -> None:
    said = text(*(replace(FAILED, name=f"a{n}", checks=(check(f"Layer {n} Value", "fail"),)) for n in range(14)))
    assert said.count("```text") == 10
    assert "and 4 more, which the report has" in said


def test_a_second_attempt_is_told() -> None:
    assert body(judged([SOUND]), "success", replace(OF, attempt=2), Links()).endswith(f"commit {COMMIT}, attempt 2\n")


@pytest.mark.parametrize("long", ["x" * 100_000, "`" * 100_000, "&" * 100_000, "前" * 100_000, "😀" * 100_000])
def test_it_is_never_longer_than_github_takes(long: str) -> None:
    wrong = [replace(check(f"{n}{long}", "fail"), message=long) for n in range(30)]
    suites = [
        replace(suite(checks=(one,)), name=f"{long}{n}", properties={"arrangement": f"{n}{long}"})
        for n, one in enumerate(wrong)
    ]
    run = replace(judged(suites), reasons=(long,) * 50)
    said = body(run, "failure", OF, TO)
    assert len(said) <= LONGEST
    assert said.endswith(f"commit {COMMIT}\n")


def test_what_finds_no_room_is_left_out_with_a_word_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comment, "LONGEST", 700)
    said = text(FAILED, SOUND)
    assert len(said) <= 700
    assert "More is left out here. The report has it." in said


@pytest.mark.parametrize("hostile", NAMES.values(), ids=NAMES)
def test_no_text_of_a_stranger_is_markup_a_link_or_a_mention(hostile: str) -> None:
    """Outside of code no character is left that is more than itself, and inside of it none that ends it."""
    bad = replace(
        check(hostile, "fail"), component=hostile, message=hostile, properties={"rel_error": hostile, "ranks": hostile}
    )
    one = Suite(hostile, (bad, check("Loss", "known")), dict.fromkeys(("arrangement", "preset", "broken", "left_out"), hostile))
    said = body(judged([one, FAILED], [f"{hostile}.xml: {hostile}"]), "failure", OF, TO)
    outside = re.sub(r"(?ms)^(`{3,})text\n[^\n]*\n\1\n", "", said)
    assert "```" not in outside
    meaning = rf"\[[a-z ':,]+\]\({re.escape(TO.docs)}/words-in-failures\.md#[a-z-]+\)"
    for line in outside.splitlines()[2:-1]:
        ours = re.sub(rf"^(### |- |> |\*\*What else is wrong\*\*)|</?code>|&#\d+;|{meaning}", " ", line)
        assert not re.search(r"[][`*_|<>#!\\$@~{}]|https?:|www\.", ours), line
        assert line.isprintable()
    shown = re.sub("<code>.*?</code>", "", outside)
    assert not re.search("&#(64|35);(?!&#8203;)", shown), "mentions are looked for when entities are characters again"
