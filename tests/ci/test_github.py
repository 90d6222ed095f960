"""What is asked of GitHub, with a server on this machine in its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.cli import main
from tests.workflows.server import ARTIFACTS, BASELINE, serving

LATEST = ["latest", "--workflow", "nightly.yml", "--branch", "refs/heads/main"]
PERMIT = ["permit", "--environment", "gpu-forks"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture
def github(server: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("GITHUB_API_URL", f"{server}/baseline")
    monkeypatch.setenv("GITHUB_REPOSITORY", "plumbline/plumbline")
    monkeypatch.setenv("GITHUB_TOKEN", "a token")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return monkeypatch


def test_the_last_green_run_is_ours(github: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Newer ones of forks, whose branch is called main, too, are passed over, though they fill more than a page."""
    assert main(LATEST) == 0
    assert capsys.readouterr().out == f"run={BASELINE}\n"


def test_a_run_that_has_it_no_more_is_passed_over(github: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be asked for in vain, and no later run could make a new one."""
    assert {artifact["name"]: artifact["expired"] for artifact in ARTIFACTS[BASELINE + 1]} == {
        "baseline": True,
        "report": False,
    }
    assert main([*LATEST, "--artifact", "report"]) == 0
    assert main([*LATEST, "--artifact", "baseline"]) == 0
    assert capsys.readouterr().out == f"run={BASELINE + 1}\nrun={BASELINE}\n"


def test_where_no_run_has_a_baseline_any_more_it_is_said(
    github: pytest.MonkeyPatch, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    github.setenv("GITHUB_API_URL", f"{server}/expired")
    assert main(LATEST) == 0
    told = capsys.readouterr()
    assert told.out == "run=\n"
    assert "the last 2 green runs of nightly.yml on main kept no artifact baseline, or it has expired" in told.err


def test_no_green_run_is_no_failure_and_is_said(
    github: pytest.MonkeyPatch, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    github.setenv("GITHUB_API_URL", f"{server}/forks-alone")
    github.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    assert main(LATEST) == 0
    assert capsys.readouterr().out == "run=\n"
    assert "Drift is left out: there is no green run of nightly.yml on main." in (tmp_path / "summary").read_text()


def test_a_workflow_that_does_not_exist_is_said(
    github: pytest.MonkeyPatch, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    github.setenv("GITHUB_API_URL", f"{server}/absent")
    assert main(LATEST) == 0
    assert capsys.readouterr().out == "run=\n"


def test_no_workflow_asks_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    assert main(["latest", "--branch", "main"]) == 0
    told = capsys.readouterr()
    assert told.out == "run=\n"
    assert "no baseline workflow is named" in told.err


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("GITHUB_API_URL", "http://127.0.0.1:1", "GitHub does not answer"),
        ("GITHUB_API_URL", "{server}/forbidden", "GitHub answers 403 .*permissions may be too few"),
        ("GITHUB_TOKEN", None, "GITHUB_TOKEN is not set"),
    ],
)
def test_no_answer_is_no_green(
    github: pytest.MonkeyPatch,
    server: str,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str | None,
    sentence: str,
) -> None:
    if value is None:
        github.delenv(name)
    else:
        github.setenv(name, value.format(server=server))
    for command in (LATEST, PERMIT):
        assert main(command) == 3
        error = capsys.readouterr().err
        assert re.search(sentence, error), error


@pytest.mark.parametrize(("answers", "code"), [("baseline", 0), ("no-reviewers", 1), ("absent", 1)])
def test_only_an_environment_with_reviewers_permits(github: pytest.MonkeyPatch, server: str, answers: str, code: int) -> None:
    github.setenv("GITHUB_API_URL", f"{server}/{answers}")
    assert main(PERMIT) == code
