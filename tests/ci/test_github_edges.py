"""Questions to GitHub at their edges: which are asked, and what each answer is taken for. No server has to give them."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from ci import github, latest, permit
from ci.cli import main
from ci.github import ask, ask_all, send
from validation.case.errors import EnvironmentMissing

ENVIRONMENT = {"GITHUB_API_URL": "https://api", "GITHUB_REPOSITORY": "a/b", "GITHUB_TOKEN": "t"}
Asked = list[tuple[tuple[str, ...], dict[str, str]]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[urllib.request.Request]:
    """Requests, each of which is answered with an empty list; and for how long one waits."""
    requests: list[urllib.request.Request] = []

    def answer(request: urllib.request.Request, timeout: float) -> io.BytesIO:
        assert timeout == 20
        requests.append(request)
        return io.BytesIO(b"[]")

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    return requests


def test_a_question_is_of_the_job_s_repository_and_by_its_token(sent: list[urllib.request.Request]) -> None:
    """Whatever stands in a name stays within its part of the address."""
    assert ask("environments", "a/../b?c", environment=ENVIRONMENT) == []
    assert ask("runs", environment=ENVIRONMENT, branch="a&b=c", per_page="100") == []
    assert [one.full_url for one in sent] == [
        "https://api/repos/a/b/environments/a%2F..%2Fb%3Fc",
        "https://api/repos/a/b/runs?branch=a%26b%3Dc&per_page=100",
    ]
    for one in sent:
        assert one.get_header("Authorization") == "Bearer t"
        assert one.get_header("Accept") == "application/vnd.github+json"
        assert one.get_method() == "GET"


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_what_is_not_set_is_said(name: str) -> None:
    """Nothing is asked then."""
    left = {key: value for key, value in ENVIRONMENT.items() if key != name}
    with pytest.raises(EnvironmentMissing) as raised:
        ask("a", environment=left)
    assert str(raised.value) == f"{name} is not set; a job on GitHub has it, give GITHUB_TOKEN as env"


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_what_github_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of that name is an answer; everything else is none."""
    for code, said in ((403, "GitHub answers 403 to /a?b=c; the job's permissions may be too few"), (404, None)):
        monkeypatch.setattr(urllib.request, "urlopen", failing(urllib.error.HTTPError("u", code, "m", Message(), None)))
        if said is None:
            assert ask("a", environment=ENVIRONMENT) is None
            continue
        with pytest.raises(EnvironmentMissing) as raised:
            ask("a", environment=ENVIRONMENT, b="c")
        assert str(raised.value) == said
    monkeypatch.setattr(urllib.request, "urlopen", failing(OSError("no route")))
    with pytest.raises(EnvironmentMissing) as raised:
        ask("a", environment=ENVIRONMENT)
    assert str(raised.value) == "GitHub does not answer to /a (no route); run the job again"
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"<html>"))
    with pytest.raises(EnvironmentMissing, match=r"^GitHub does not answer to /a \(Expecting value"):
        ask("a", environment=ENVIRONMENT)


@pytest.fixture
def paged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Asks for a list that GitHub gives in these pages, three of two entries at most; the addresses that were asked."""
    monkeypatch.setattr(github, "_PAGE", 2)
    monkeypatch.setattr(github, "_MOST_PAGES", 3)

    def asked(pages: list[object], found: list[object], **how: str) -> list[str]:
        requests: list[str] = []

        def answer(request: urllib.request.Request, timeout: float) -> io.BytesIO:
            requests.append(request.full_url)
            return io.BytesIO(json.dumps(pages[len(requests) - 1]).encode())

        monkeypatch.setattr(urllib.request, "urlopen", answer)
        assert list(ask_all("a", environment=ENVIRONMENT, **how)) == found
        return [request.removeprefix("https://api/repos/a/b") for request in requests]

    return asked


def test_a_list_is_asked_for_page_by_page_until_one_is_not_full(paged: Callable[..., list[str]]) -> None:
    """Or until there are as many as are ever looked at."""
    assert paged([[1, 2], [3]], [1, 2, 3], state="open") == [f"/a?state=open&per_page=2&page={page}" for page in (1, 2)]
    assert paged([[1, 2], []], [1, 2]) == [f"/a?per_page=2&page={page}" for page in (1, 2)]
    assert len(paged([[1, 2]] * 4, [1, 2] * 3)) == 3


def test_a_list_in_a_mapping_is_found_by_its_name(paged: Callable[..., list[str]]) -> None:
    """What is no list, and what GitHub does not know, has no entries."""
    assert len(paged([{"n": 9, "jobs": [1, 2]}, {"jobs": [3]}], [1, 2, 3], key="jobs")) == 2
    for answer in ({"jobs": 3}, {"other": [1]}, None):
        assert len(paged([answer], [], key="jobs")) == 1
    for nothing in ({"": [1]}, None, 3):
        assert len(paged([nothing], [])) == 1
    assert len(paged([[1]], [1], key="jobs")) == 1


def test_what_is_written_is_json_by_the_method_that_is_named(sent: list[urllib.request.Request]) -> None:
    """To the job's own repository, and with its token."""
    assert send("PATCH", "issues", "a/b", content={"body": "ä"}, environment=ENVIRONMENT) == []
    (one,) = sent
    assert (one.get_method(), one.full_url) == ("PATCH", "https://api/repos/a/b/issues/a%2Fb")
    assert one.data == b'{"body": "\\u00e4"}'
    assert one.get_header("Authorization") == "Bearer t"


REVIEW = {"type": "required_reviewers", "reviewers": [{"type": "User"}]}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"protection_rules": [REVIEW]}, 0),
        ({"protection_rules": [{"type": "wait_timer"}, REVIEW]}, 0),
        ({"protection_rules": [{**REVIEW, "reviewers": []}, REVIEW]}, 0),
        ({"protection_rules": ["a", REVIEW]}, 0),
        ({"protection_rules": [{**REVIEW, "reviewers": []}]}, 1),
        ({"protection_rules": [{"type": "required_reviewers"}]}, 1),
        ({"protection_rules": [{**REVIEW, "type": "wait_timer"}]}, 1),
        ({"protection_rules": [{"reviewers": [1]}]}, 1),
        ({"protection_rules": []}, 1),
        ({"protection_rules": None}, 1),
        ({}, 1),
        ([], 1),
        (None, 1),
    ],
    ids=json.dumps,
)
def test_somebody_has_approved_only_where_somebody_was_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: object, code: int
) -> None:
    """By the environment that the job names, and by whole sentences."""
    asked: list[tuple[str, ...]] = []

    def reply(*path: str) -> object:
        asked.append(path)
        return answer

    monkeypatch.setattr(permit, "ask", reply)
    assert main(["permit", "--environment", "forks"]) == code
    assert asked == [("environments", "forks")]
    assert capsys.readouterr().out == (
        "red: environment forks asks nobody: give it required reviewers (Settings, Environments; docs/security.md), then run "
        "this again\n"
        if code
        else "Somebody has approved: environment forks asks for a reviewer.\n"
    )


def run(number: int, event: str = "schedule", branch: str = "main", repository: str | None = "a/b") -> dict[str, Any]:
    return {"id": number, "event": event, "head_branch": branch, "head_repository": {"full_name": repository}}


class GitHub:
    """Runs, by the event that they are asked for, and the artifacts of each; notes what was asked."""

    def __init__(self, runs: dict[str, Any], artifacts: dict[int, Any]) -> None:
        self.runs, self.artifacts = runs, artifacts
        self.asked: Asked = []

    def __call__(self, *path: str, **query: str) -> Any:
        """An answer as GitHub gives it; None where there is nothing."""
        self.asked.append((path, query))
        if path[-1] == "artifacts":
            return self.artifacts.get(int(path[2]))
        return self.runs.get(query["event"])


def found(monkeypatch: pytest.MonkeyPatch, github: GitHub, *words: str) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setattr(latest, "ask", github)
    assert main(["latest", "--workflow", "w.yml", "--branch", "refs/heads/main", *words]) == 0


def kept(*names: str, expired: object = False) -> dict[str, Any]:
    return {"artifacts": [{"name": name, "expired": expired} for name in names]}


def test_the_newest_run_that_has_it_is_taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all events together; each is asked for by its name, and an artifact by its own."""
    runs = {
        "schedule": {"workflow_runs": [run(5), run(3)]},
        "workflow_dispatch": {"workflow_runs": [run(4, "workflow_dispatch")]},
        "push": {"workflow_runs": None},
    }
    github = GitHub(runs, {5: kept("other"), 4: kept("other", "baseline"), 3: kept("baseline")})
    found(monkeypatch, github)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("run=4\n", "")
    workflow = ("actions", "workflows", "w.yml", "runs")
    assert github.asked == [
        *(
            (workflow, {"branch": "main", "status": "success", "event": event, "per_page": "100"})
            for event in ("schedule", "workflow_dispatch", "push")
        ),
        (("actions", "runs", "5", "artifacts"), {"name": "baseline"}),
        (("actions", "runs", "4", "artifacts"), {"name": "baseline"}),
    ]


@pytest.mark.parametrize(
    "strange",
    [
        run(9, repository="fork/b"),
        run(9, repository=None),
        {**run(9), "head_repository": None},
        {"id": 9, "event": "schedule", "head_branch": "main"},
        run(9, branch="other"),
        run(9, event="pull_request"),
    ],
    ids=str,
)
def test_a_run_of_somebody_else_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], strange: dict[str, Any]
) -> None:
    """Though it is newer and has an artifact of that name."""
    github = GitHub({"schedule": {"workflow_runs": [strange, run(1)]}}, {9: kept("baseline"), 1: kept("baseline")})
    found(monkeypatch, github)
    assert capsys.readouterr().out == "run=1\n"


@pytest.mark.parametrize(
    "artifacts",
    [None, [], {}, {"artifacts": None}, kept("baseline-2"), kept("baseline", expired=True), kept("baseline", expired=None)],
    ids=str,
)
def test_a_run_without_it_is_passed_over_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], artifacts: object
) -> None:
    """One that has expired, or of which that is not known, is none."""
    found(monkeypatch, GitHub({"push": {"workflow_runs": [run(1, "push")]}}, {1: artifacts}))
    told = capsys.readouterr()
    assert (told.out, told.err) == (
        "run=\n",
        "Drift is left out: the only green run of w.yml on main kept no artifact baseline, or it has expired.\n",
    )


def test_no_more_runs_are_asked_than_a_token_has_questions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest thirty."""
    github = GitHub({"push": {"workflow_runs": [run(number, "push") for number in range(1, 40)]}}, {9: kept("b")})
    found(monkeypatch, github, "--artifact", "b")
    assert capsys.readouterr().err == (
        "Drift is left out: the last 30 green runs of w.yml on main kept no artifact b, or it has expired.\n"
    )
    assert [path[2] for path, _ in github.asked if path[-1] == "artifacts"] == [str(number) for number in range(39, 9, -1)]


def test_why_drift_is_left_out_stands_in_the_summary_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Behind what stands there."""
    (tmp_path / "summary").write_text("before", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    assert main(["latest", "--branch", "main"]) == 0
    said = "Drift is left out: no baseline workflow is named.\n"
    assert capsys.readouterr() == ("run=\n", said)
    assert (tmp_path / "summary").read_text(encoding="utf-8") == f"before\n{said}"
