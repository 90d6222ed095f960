"""The release, executed: GitHub's parser and evaluator decide what runs, the tag and the changelog are really compared.

What is built and who takes it are stand-ins: nothing leaves this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflows import made
from tests.workflows.scenarios import HERE, OURS, ROOT

WORKFLOW = ".github/workflows/release.yml"
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2027-01-31\n\n- A thing\n"
FILES = ("plumbline-1.2.3-py3-none-any.whl", "plumbline-1.2.3.tar.gz")


@dataclass(frozen=True)
class Scenario:
    """What is pushed, what the changelog says, what is built, whether it runs, and whether somebody lets it be published."""

    ref: str = "refs/tags/v1.2.3"
    changelog: str = CHANGELOG
    built: tuple[str, ...] = FILES
    approved: tuple[str, ...] = ("pypi",)
    lost: tuple[str, ...] = ()
    runs: bool = True


SCENARIOS = {
    "released": Scenario(),
    "not in the changelog": Scenario(changelog="# Changelog\n\n## [Unreleased]\n\n- A thing\n"),
    "no version": Scenario(ref="refs/tags/vNext"),
    "another version built": Scenario(built=("plumbline-1.2.4.dev1-py3-none-any.whl", "plumbline-1.2.4.dev1.tar.gz")),
    "nothing built": Scenario(built=()),
    "the wheel does not run": Scenario(runs=False),
    "nobody approves": Scenario(approved=()),
    "what was built is lost": Scenario(lost=("dist",)),
    "a branch": Scenario(ref="refs/heads/main"),
    "a branch like a tag": Scenario(ref="refs/heads/v1.2.3"),
    "another tag": Scenario(ref="refs/tags/nightly"),
}


@dataclass(frozen=True)
class Released:
    """What came of it: how the jobs ended, and what each step printed."""

    triggered: bool
    jobs: Mapping[str, str]
    steps: Mapping[str, Mapping[str, str]]


def written(scenario: Scenario, work: Path) -> Path:
    """The file that tells the runner; the checkout is this repository with a changelog of its own."""
    root = work / "root"
    root.mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name in (".github", "ci", "validation", "requirements", "pyproject.toml"):
            (root / path.name).symlink_to(path)
    (root / "CHANGELOG.md").write_text(scenario.changelog, encoding="utf-8")
    github = {
        "event_name": "push",
        "event": {"ref": scenario.ref},
        "repository": OURS,
        "sha": made.COMMIT,
        "ref": scenario.ref,
        "ref_name": scenario.ref.split("/", 2)[2],
        "workflow": "Release",
        "token": "a token",
        "api_url": "http://127.0.0.1:9",
        "server_url": "https://github.example",
        "run_id": "99",
    }
    told = {
        "workflow": WORKFLOW,
        "github": github,
        "job": {"workflow_repository": OURS, "workflow_sha": made.COMMIT},
        "root": str(root),
        "stand_ins": str(HERE / "stand_ins"),
        "work": str(work),
        "approved": scenario.approved,
        "lost": scenario.lost,
        "inputs": {},
        "environment": {
            "PYTHON": sys.executable,
            "STAND_INS": str(HERE / "stand_ins"),
            "BUILT": " ".join(scenario.built),
            "INSTALLED": str(int(not scenario.runs)),
            "PYTHONPATH": str(ROOT),
            "PYTHONSAFEPATH": "1",
        },
    }
    (work / "scenario.json").write_text(json.dumps(told), encoding="utf-8")
    return work / "scenario.json"


@pytest.fixture(scope="module")
def released(node: None, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Released]:
    """Every scenario, played once in one process."""
    folder = tmp_path_factory.mktemp("releases")
    paths = [written(scenario, folder / str(number)) for number, scenario in enumerate(SCENARIOS.values())]
    command = ["node", str(HERE / "runner.mjs"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: _released(one) for name, one in zip(SCENARIOS, told, strict=True)}


def _released(one: Mapping[str, Any]) -> Released:
    steps = {step["name"]: step for leg in one["legs"] for step in leg["steps"]}
    return Released(one["triggered"], one["jobs"], steps)


def test_a_tag_is_built_attested_and_published(released: Mapping[str, Released]) -> None:
    """What is attested and what is published are the files that were built and looked at, byte by byte."""
    found = released["released"]
    assert found.jobs == {"build": "success", "try": "success", "publish": "success"}
    assert found.steps["Compare the tag with what was built"]["output"] == "v1.2.3: all say 1.2.3\n"
    attested = found.steps["Attest where it comes from"]["output"]
    assert tuple(line.split()[0] for line in attested.splitlines()) == FILES
    assert found.steps["Publish"]["output"] == attested


@pytest.mark.parametrize(
    ("name", "step", "said"),
    [
        ("not in the changelog", "Compare the tag with the changelog", "has no section '## [1.2.3] - YYYY-MM-DD'"),
        ("no version", "Compare the tag with the changelog", "tag vNext is no release"),
        ("another version built", "Compare the tag with what was built", "is not plumbline 1.2.3"),
        ("nothing built", "Look at the metadata", "../dist/*"),
    ],
)
def test_what_does_not_fit_is_never_published(released: Mapping[str, Released], name: str, step: str, said: str) -> None:
    found = released[name]
    assert found.jobs == {"build": "failure", "try": "skipped", "publish": "skipped"}
    assert found.steps[step]["result"] == "failure"
    assert said in found.steps[step]["output"]
    assert not {"Attest where it comes from", "Publish"} & found.steps.keys()


def test_nothing_is_published_before_somebody_approves(released: Mapping[str, Released]) -> None:
    assert released["nobody approves"].jobs == {"build": "success", "try": "success", "publish": "failure"}
    assert "Publish" not in released["nobody approves"].steps


def test_files_that_do_not_arrive_are_not_published(released: Mapping[str, Released]) -> None:
    found = released["what was built is lost"]
    assert found.steps["Fetch the wheel"]["result"] == "failure"
    assert found.jobs == {"build": "success", "try": "failure", "publish": "skipped"}


def test_a_wheel_that_does_not_run_is_not_published(released: Mapping[str, Released]) -> None:
    found = released["the wheel does not run"]
    assert found.steps["Ask for its version"] == {
        "name": "Ask for its version",
        "result": "failure",
        "output": "plumbline --version\n",
    }
    assert found.jobs == {"build": "success", "try": "failure", "publish": "skipped"}
    assert "Publish" not in found.steps


@pytest.mark.parametrize("name", ["a branch", "a branch like a tag", "another tag"])
def test_only_a_tag_of_a_version_starts_it(released: Mapping[str, Released], name: str) -> None:
    assert not released[name].triggered


def test_jobs_that_run_code_may_read_and_the_one_that_publishes_runs_none() -> None:
    content = yaml.safe_load((ROOT / WORKFLOW).read_text(encoding="utf-8"))
    publish = content["jobs"]["publish"]
    assert content["jobs"]["build"]["permissions"] == {"contents": "read"}
    assert content["jobs"]["try"]["permissions"] == {}
    assert set(publish["needs"]) == {"build", "try"}
    assert publish["permissions"] == {"id-token": "write", "attestations": "write"}
    assert publish["environment"] == "pypi"
    assert [step["uses"].partition("@")[0] for step in publish["steps"]] == [
        "actions/download-artifact",
        "actions/attest-build-provenance",
        "pypa/gh-action-pypi-publish",
    ]
