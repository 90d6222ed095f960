"""The workflow that publishes the documentation: from main alone, if that is wanted, by a job that runs no code of ours."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.workflows.scenarios import ROOT


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yml").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["jobs"]
    return found


def test_one_job_may_publish_and_it_runs_nothing_but_the_action(jobs: dict[str, Any]) -> None:
    writing = [name for name, job in jobs.items() if "write" in job["permissions"].values()]
    assert writing == ["publish"]
    (step,) = jobs["publish"]["steps"]
    assert step["uses"].startswith("actions/deploy-pages@")
    assert set(step) == {"name", "uses"}
    assert jobs["publish"]["permissions"] == {"pages": "write", "id-token": "write"}


def test_only_main_is_published_and_only_where_that_is_wanted(jobs: dict[str, Any]) -> None:
    assert jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["if"] == "github.ref == 'refs/heads/main' && vars.PUBLISH_DOCS == 'true'"
    assert jobs["publish"]["environment"] == "github-pages"


def test_what_is_published_is_what_was_built(jobs: dict[str, Any]) -> None:
    """Under the name and in the form that Pages takes."""
    *_, build, pack, keep = jobs["build"]["steps"]
    assert build["run"] == "nox -s docs"
    assert "--directory site/html" in pack["run"]
    assert keep["with"]["name"] == "github-pages"
    assert keep["with"]["path"].endswith("/artifact.tar")
    assert '/artifact.tar"' in pack["run"]


def test_other_sites_are_asked_once_a_week_and_not_for_each_change(jobs: dict[str, Any]) -> None:
    """A site that is down must not keep a change from being merged."""
    assert jobs["links"]["if"] == "github.event_name != 'push'"
    assert jobs["links"]["steps"][-1]["run"] == "nox -s docs -- --links"
