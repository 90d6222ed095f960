"""The workflow that comments, executed: GitHub's parser and evaluator, the real command, results and pull requests made up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci import junit
from tests.ci.runs import check, suite
from tests.workflows import made
from tests.workflows.pulls import BOT, FORK, HERE, RUN, Pulls, event, pull, serving
from tests.workflows.scenarios import HERE as FOLDER
from tests.workflows.scenarios import ROOT

WORKFLOW = ".github/workflows/comment.yml"
FAILED = suite("tp2", (check("Layer 0 Value"), check("Layer 0 Attention Output", "fail")))
MARK = "HACKED"


@dataclass(frozen=True)
class Scenario:
    """What GitHub tells, what is there, and what the run has left: suites by the name of their artifact."""

    event: Mapping[str, Any] = field(default_factory=event)
    pulls: Pulls = field(default_factory=Pulls)
    workflow: str = WORKFLOW
    artifact: str = "results-parity"
    leave: Callable[[Path], None] = lambda folder: junit.write(folder / "a.xml", FAILED)


def hostile(folder: Path) -> None:
    """Names that are markup, files that would be run if anybody ran them, links, and what is no XML."""
    text = "@everyone #1 [a](javascript:b) <img src=x> ![c](https://example.com/d)"
    bad = replace(check(text, "fail"), component=text, message=text)
    junit.write(folder / "a.xml", replace(suite(checks=(bad,)), name=text))
    (folder / "link.xml").symlink_to("/etc/passwd")
    (folder / "bomb.xml").write_text("<!DOCTYPE a [<!ENTITY b 'c'>]>&b;", encoding="utf-8")
    for name in ("sitecustomize.py", "ci/__init__.py", "ci/comment.py", "validation/__init__.py", "conftest.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"raise SystemExit({MARK!r})", encoding="utf-8")


SCENARIOS: dict[str, Callable[[], Scenario]] = {
    "new": Scenario,
    "edited": lambda: Scenario(pulls=_with_a_comment()),
    "fork": lambda: Scenario(event(FORK), Pulls([pull(7), pull(8, FORK)])),
    "no pull request": lambda: Scenario(pulls=Pulls([])),
    "hostile": lambda: Scenario(event(FORK), Pulls([pull(8, FORK)]), leave=hostile),
    "nothing left": lambda: Scenario(event(conclusion="cancelled"), leave=lambda folder: None),
    "queue": lambda: Scenario(event(event="merge_group")),
    "another workflow": lambda: Scenario(event(name="Nightly")),
    "caller": lambda: Scenario(
        event(name="Plumbline"),
        Pulls(jobs=[{"name": "bf16 / gate", "conclusion": "success"}, {"name": "fp64 / gate", "conclusion": "failure"}]),
        "tests/workflows/comment-caller.yml",
        "plumbline-bf16.results-parity",
    ),
}


def _with_a_comment() -> Pulls:
    pulls = Pulls()
    pulls.write("<!-- plumbline comment -->\n## Plumbline: 🟢 GREEN", BOT)
    return pulls


@dataclass(frozen=True)
class Commented:
    """What came of a scenario: whether it ran, its steps with what they printed, and the comments that are there then."""

    triggered: bool
    jobs: Mapping[str, str]
    steps: Mapping[str, Mapping[str, str]]
    pulls: Pulls

    @property
    def texts(self) -> list[str]:
        """Of the comments."""
        return [one["body"] for one in self.pulls.comments]


@pytest.fixture(scope="module")
def commented(node: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Commented]]:
    """Every scenario, played once in one process."""
    folder = tmp_path_factory.mktemp("comments")
    with ExitStack() as stack:
        scenarios = {name: make() for name, make in SCENARIOS.items()}
        paths = []
        for number, one in enumerate(scenarios.values()):
            paths.append(_written(one, folder / str(number), stack.enter_context(serving(one.pulls))))
        command = ["node", str(FOLDER / "runner.mjs"), *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=True)
        told = [json.loads(line) for line in done.stdout.splitlines()]
        yield {name: _commented(one, scenarios[name].pulls) for name, one in zip(scenarios, told, strict=True)}


def _commented(one: Mapping[str, Any], pulls: Pulls) -> Commented:
    steps = {step["name"]: step for leg in one["legs"] for step in leg["steps"]}
    return Commented(one["triggered"], one["jobs"], steps, pulls)


def _written(scenario: Scenario, work: Path, api: str) -> Path:
    left = work / "runs" / str(RUN) / scenario.artifact
    left.mkdir(parents=True)
    scenario.leave(left)
    github = {
        "event_name": "workflow_run",
        "event": scenario.event,
        "repository": HERE,
        "sha": made.COMMIT,
        "ref": "refs/heads/main",
        "ref_name": "main",
        "workflow": "Comment",
        "token": "a token",
        "api_url": api,
        "server_url": "https://github.example",
        "run_id": "99",
    }
    told = {
        "workflow": scenario.workflow,
        "github": github,
        "job": {"workflow_repository": HERE, "workflow_sha": made.COMMIT},
        "root": str(ROOT),
        "stand_ins": str(FOLDER / "stand_ins"),
        "work": str(work),
        "baselines": str(work / "runs"),
        "environment": {"PYTHON": sys.executable, "STAND_INS": str(FOLDER / "stand_ins"), "PYTHONPATH": str(ROOT)},
        "inputs": {},
    }
    (work / "scenario.json").write_text(json.dumps(told), encoding="utf-8")
    return work / "scenario.json"


def test_a_new_comment_is_written(commented: Mapping[str, Commented]) -> None:
    found = commented["new"]
    assert found.steps["Write the comment"]["output"] == "Pull request 7: the comment is written\n"
    (text,) = found.texts
    assert text.startswith("<!-- plumbline comment -->\n## Plumbline: 🔴 RED\n\n1 case, 2 checks: 1 pass, 1 fail\n")
    assert "<code>Layer 0 Attention Output</code>" in text
    assert f"https://github.example/{HERE}/actions/runs/{RUN}#artifacts" in text
    assert f"https://github.example/{HERE}/blob/{made.COMMIT}/docs/first-red-check.md" in text


def test_the_comment_that_is_there_is_edited(commented: Mapping[str, Commented]) -> None:
    found = commented["edited"]
    assert found.steps["Write the comment"]["output"] == "Pull request 7: the comment is changed\n"
    assert ["RED" in text for text in found.texts] == [True]


def test_a_forks_run_is_told_in_its_own_pull_request(commented: Mapping[str, Commented]) -> None:
    assert [one["issue"] for one in commented["fork"].pulls.comments] == [8]


def test_without_a_pull_request_nothing_is_written_and_nothing_fails(commented: Mapping[str, Commented]) -> None:
    found = commented["no pull request"]
    assert set(found.jobs.values()) == {"success"}
    assert "No comment is written: no open pull request is of branch topic" in found.steps["Write the comment"]["output"]
    assert found.texts == []


def test_nothing_of_a_hostile_artifact_is_run_or_is_markup(commented: Mapping[str, Commented]) -> None:
    found = commented["hostile"]
    assert set(found.jobs.values()) == {"success"}
    assert MARK not in json.dumps(found.steps["Write the comment"])
    (text,) = found.texts
    assert "javascript&#58;b" in text
    outside = re.sub(r"(?s)```text\n[^\n]*\n```", "", text)
    assert not any(bad in outside for bad in ("```", "<img", "](javascript", "![c](", "@everyone"))
    assert "link&#46;xml&#58; no regular file" in text
    assert "bomb&#46;xml&#58; declares entities" in text


def test_no_code_but_the_base_branchs_is_checked_out(commented: Mapping[str, Commented]) -> None:
    for name, found in commented.items():
        if found.steps:
            assert found.steps["Check out Plumbline"]["output"] == f"{made.COMMIT} in plumbline", name
    text = (ROOT / WORKFLOW).read_text(encoding="utf-8")
    used = [step["uses"] for step in yaml.safe_load(text)["jobs"]["comment"]["steps"] if "uses" in step]
    assert [one.partition("@")[0] for one in used] == [
        "actions/checkout",
        "./plumbline/.github/actions/setup",
        "actions/download-artifact",
    ]
    assert "head_sha" not in text
    assert "pull_request.head" not in text


def test_a_run_that_left_nothing_is_told(commented: Mapping[str, Commented]) -> None:
    (text,) = commented["nothing left"].texts
    assert "⚪ CANCELLED" in text
    assert "The run has left no results." in text


def test_what_is_no_pull_requests_run_starts_no_job(commented: Mapping[str, Commented]) -> None:
    assert commented["queue"].jobs == {"comment": "skipped"}
    assert not commented["another workflow"].triggered


def test_a_team_calls_it_for_one_of_its_calls(commented: Mapping[str, Commented]) -> None:
    """It has that call's results, and the verdict of that call's gate."""
    found = commented["caller"]
    assert found.steps["Fetch the results"]["output"] == "plumbline-bf16.results-parity"
    assert found.texts[0].startswith("<!-- plumbline comment bf16 -->\n## Plumbline bf16: 🟢 GREEN\n")


def test_the_job_may_write_comments_and_nothing_else() -> None:
    content = yaml.safe_load((ROOT / WORKFLOW).read_text(encoding="utf-8"))
    assert content["permissions"] == {}
    assert content["jobs"]["comment"]["permissions"] == {"contents": "read", "actions": "read", "pull-requests": "write"}
    assert content[True]["workflow_run"] == {"workflows": ["Pull request"], "types": ["completed"]}
