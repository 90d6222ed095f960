"""The workflow files themselves: GitHub's language service has nothing to say, and what no linter looks at."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.matrix import HOSTED
from ci.table import EVENTS, TABLE, Row, Tool, rows, tools
from tests.workflows.scenarios import HERE, ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FILES = [*WORKFLOWS, *sorted((ROOT / ".github" / "actions").glob("*/action.yml"))]
USES = re.compile(r"uses: (\S+?)@(\S+)( # v\d+\.\d+\.\d+)?$", re.MULTILINE)


def diagnostics(*paths: Path) -> list[str]:
    """What GitHub's language service says of the files."""
    command = ["node", str(HERE / "check.mjs"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every step of every job and of the action."""
    for path in FILES:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        jobs = content.get("jobs", {"action": content.get("runs")})
        for job in jobs.values():
            yield from ((path.name, step) for step in job.get("steps", []))


def test_the_language_service_has_nothing_to_say(node: None) -> None:
    assert diagnostics(*FILES) == []


@pytest.mark.parametrize(
    ("instead_of", "written", "said"),
    [
        ("needs: [plan, permit]", "needs: [plan, permitt]", "permitt"),
        ("needs.plan.outputs.sessions", "needs.plann.outputs.sessions", "plann"),
        ("timeout-minutes: 20", "timeout-minuts: 20", "timeout-minuts"),
        ("if: ${{ always() }}\n    runs-on", "if: ${{ allways() }}\n    runs-on", "allways"),
    ],
)
def test_the_language_service_sees_mistakes(node: None, tmp_path: Path, instead_of: str, written: str, said: str) -> None:
    text = (ROOT / ".github" / "workflows" / "parity.yml").read_text(encoding="utf-8")
    assert instead_of in text
    wrong = tmp_path / "parity.yml"
    wrong.write_text(text.replace(instead_of, written), encoding="utf-8")
    assert any(said in line for line in diagnostics(wrong))


def test_actions_are_pinned_each_to_one_commit_with_its_version() -> None:
    pins: dict[str, set[tuple[str, str]]] = {}
    for path in FILES:
        if path.name == ENTERPRISE:
            continue
        for action, commit, version in USES.findall(path.read_text(encoding="utf-8")):
            assert re.fullmatch("[0-9a-f]{40}", commit), f"{path.name}: {action}@{commit}"
            assert version, f"{path.name}: {action} does not say its version"
            pins.setdefault(action, set()).add((commit, version))
    assert {action: len(found) for action, found in pins.items()} == dict.fromkeys(pins, 1)
    assert len(pins) == 7


def test_a_step_runs_one_line_and_no_expression_is_in_it() -> None:
    """Values come in as environment variables: text of a pull request is never a piece of a script."""
    scripts = [(name, step["run"]) for name, step in steps() if "run" in step]
    assert len(scripts) > 10
    assert [(name, script) for name, script in scripts if "\n" in script.strip() or "${{" in script] == []


def test_a_checkout_keeps_no_credentials() -> None:
    checkouts = [step for _, step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


ENTERPRISE = "parity-ghes.yml"
"""Has older releases of the same actions; tests/ci/test_ghes.py looks at them."""
COMMENT = "comment.yml"
"""The one workflow that has a token to write with; test_comment.py looks at what it does."""
RELEASE = "release.yml"
"""The one that publishes a package; test_release.py looks at what it does."""
DOCS = "docs.yml"
"""The one that publishes the documentation; test_documentation.py looks at what it does."""


def test_nothing_runs_on_events_that_hand_secrets_to_forks() -> None:
    for path in WORKFLOWS:
        if path.name == COMMENT:
            continue
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        # YAML 1.1 reads the key `on` as true.
        if path.name == RELEASE:
            assert content[True] == {"push": {"tags": ["v*"]}}
        elif path.name == DOCS:
            assert content[True].pop("push") == {"branches": ["main"]}
            assert set(content[True]) == {"schedule", "workflow_dispatch"}
        else:
            assert set(content[True]) <= {"pull_request", "merge_group", "schedule", "workflow_dispatch", "workflow_call"}
        assert content["permissions"] == {}
        assert "secrets" not in path.read_text(encoding="utf-8")


def test_the_job_that_waits_for_nobody_knows_the_labels_that_are_githubs() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "parity.yml").read_text(encoding="utf-8"))["jobs"]["hosted"]
    (labels,) = re.findall(r"fromJSON\('(.*?)'\)", job["runs-on"])
    assert tuple(json.loads(labels)) == HOSTED


def test_sessions_and_gate_know_where_the_documentation_is() -> None:
    """Results, summary and page link to the same commit of it."""
    for name in ("parity.yml", "parity-ghes.yml"):
        told = [
            {key: value for key, value in step["env"].items() if key in ("PLUMBLINE_REF", "PLUMBLINE_REPOSITORY")}
            for file, step in steps()
            if file == name and "PLUMBLINE_REF" in step.get("env", {})
        ]
        runs = [step["run"] for file, step in steps() if file == name and "PLUMBLINE_REF" in step.get("env", {})]
        assert sum(run.startswith("nox -s") for run in runs) >= 1
        assert len(runs) >= 3
        assert all(one == told[0] and len(one) == 2 for one in told)


def test_nobody_is_asked_to_write_anything_but_the_comment_a_release_and_the_site() -> None:
    for path in WORKFLOWS:
        if path.name in (COMMENT, RELEASE, DOCS):
            continue
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            assert set(job.get("permissions", {}).values()) <= {"read"}


def test_every_event_of_the_table_is_one_that_a_workflow_asks_for() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    assert [event for event in EVENTS if event not in text] == []


def test_what_runs_in_a_clean_clone_is_what_a_pull_request_runs_without_gpus() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (sessions,) = re.findall(r"for session in (.*); do", script)
    table: list[Row | Tool] = [*rows(TABLE), *tools(TABLE)]
    listed = [one.session for one in table if "pull_request" in one.when and not one.gpus]
    assert sorted(sessions.split()) == sorted(listed)


def test_the_lock_file_names_no_registry() -> None:
    """Where packages come from is npm's own configuration."""
    packages = json.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert all("integrity" in package for name, package in packages.items() if name)


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md", "docs/github.md"])
def test_the_workflow_in_the_readme_is_one(node: None, tmp_path: Path, readme: str) -> None:
    """Its inputs are those of the reusable workflow, and GitHub's language service has nothing to say."""
    (written,) = re.findall(
        r"```yaml\n(# \.github/workflows/plumbline\.yml\n.*?)```", (ROOT / readme).read_text("utf-8"), re.DOTALL
    )
    (tmp_path / "plumbline.yml").write_text(written, encoding="utf-8")
    assert diagnostics(tmp_path / "plumbline.yml") == []
    called = yaml.safe_load((ROOT / ".github" / "workflows" / "parity.yml").read_text(encoding="utf-8"))
    given = yaml.safe_load(written)["jobs"]["plumbline"]["with"]
    assert set(given) <= set(called[True]["workflow_call"]["inputs"])
    assert len(written.splitlines()) <= 18


def test_the_workflow_in_the_page_about_comments_is_one(node: None, tmp_path: Path) -> None:
    """It gives the called job what it asks for, and listens to the workflow of the README."""
    text = (ROOT / "docs" / "comment.md").read_text("utf-8")
    (written,) = re.findall(r"```yaml\n(# \.github/workflows/plumbline-comment\.yml\n.*?)```", text, re.DOTALL)
    (tmp_path / "plumbline-comment.yml").write_text(written, encoding="utf-8")
    assert diagnostics(tmp_path / "plumbline-comment.yml") == []
    called = yaml.safe_load((ROOT / ".github" / "workflows" / COMMENT).read_text(encoding="utf-8"))
    content = yaml.safe_load(written)
    assert content["jobs"]["comment"]["permissions"] == called["jobs"]["comment"]["permissions"]
    assert "\nname: Plumbline\n" in (ROOT / "README.md").read_text("utf-8")
    assert content[True]["workflow_run"]["workflows"] == ["Plumbline"]


def test_the_job_for_viewers_fits_the_workflow_in_the_readme(node: None, tmp_path: Path) -> None:
    """With each of the steps behind it; it waits for the call, reads its artifacts and may write checks alone."""
    page = (ROOT / "docs" / "viewers.md").read_text("utf-8")
    (job,) = re.findall(r"```yaml\n(  viewer:\n.*?)```", page, re.DOTALL)
    steps = re.findall(r"```yaml\n(- uses: .*?)```", page, re.DOTALL)
    (caller,) = re.findall(
        r"```yaml\n(# \.github/workflows/plumbline\.yml\n.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL
    )
    for number, step in enumerate(steps):
        path = tmp_path / f"plumbline-{number}.yml"
        path.write_text(caller + job + textwrap.indent(step, "      "), encoding="utf-8")
        assert diagnostics(path) == []
        content = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]["viewer"]
        assert content["permissions"] == {"checks": "write"}
        assert len(content["steps"]) == 2
    assert len(steps) == 3
