"""The workflow for GitHub Enterprise Server, executed: no machine but the team's, and artifact actions of version 3."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.workflows.scenarios import ENTERPRISE, ROOT, Played
from tests.workflows.test_files import diagnostics

All = Mapping[str, Played]


@pytest.mark.parametrize("name", ENTERPRISE)
def test_the_gate_is_what_it_must_be(played: All, name: str) -> None:
    assert played[name].gate == ENTERPRISE[name].gate
    if ENTERPRISE[name].says:
        assert ENTERPRISE[name].says in played[name].output("gate", "Judge")


def steps(result: Played, leg: str) -> dict[str, str]:
    """How each step of a job ended."""
    return {step["name"]: step["result"] for step in result.leg(leg)["steps"]}


@pytest.mark.parametrize("name", ["server, fork", "server, fork unprotected"])
def test_of_a_fork_nothing_runs_before_a_maintainer_permits_it(played: All, name: str) -> None:
    """No plan, no session; the gate says so and ends before it has checked anything out."""
    jobs = {job.removeprefix("plumbline / "): result for job, result in played[name].jobs.items()}
    assert (jobs["permit"], jobs["plan"], jobs["self-hosted"], jobs["gate"]) == ("failure", "skipped", "skipped", "failure")
    found = steps(played[name], "gate")
    assert found.pop("Stop if nobody has permitted it") == "failure"
    assert set(found.values()) == {"skipped"}
    assert "no maintainer has permitted it" in played[name].leg("gate")["summary"]


def test_everything_runs_on_the_teams_machines(played: All) -> None:
    runners = {leg["leg"].removeprefix("plumbline / "): leg["runner"] for leg in played["server"].legs}
    gpus = ["self-hosted", "linux", "gpus-2"]
    assert runners == {"plan": "small", "gpu_tp2": gpus, "gpu_pp2": gpus, "gate": "small"}


def test_an_approved_fork_runs_what_everybody_runs(played: All) -> None:
    of_fork = [leg["leg"] for leg in played["server, fork approved"].legs]
    assert of_fork[1:] == [leg["leg"] for leg in played["server"].legs]


def test_results_are_kept_of_what_failed(played: All) -> None:
    assert steps(played["server, red"], "gpu_tp2")["Keep the results"] == "success"
    assert "index.html: fail, " in played["server, red"].page
    assert steps(played["server, red"], "gate")["Keep the page"] == "success"


def test_a_red_summary_leads_to_what_to_do(played: All) -> None:
    summary = played["server, red"].leg("gate")["summary"]
    assert "https://github.example/plumbline/plumbline/blob/c0ffee" in summary


def test_the_workflow_in_the_page_is_one(node: None, tmp_path: Path) -> None:
    """Its inputs are those of the workflow, with all that it requires, and GitHub's language service has nothing to say."""
    page = (ROOT / "docs" / "ghes.md").read_text("utf-8")
    (written,) = re.findall(r"```yaml\n(# \.github/workflows/plumbline\.yml\n.*?)```", page, re.DOTALL)
    (tmp_path / "plumbline.yml").write_text(written, encoding="utf-8")
    assert diagnostics(tmp_path / "plumbline.yml") == []
    called = yaml.safe_load((ROOT / ".github" / "workflows" / "parity-ghes.yml").read_text(encoding="utf-8"))
    inputs = called[True]["workflow_call"]["inputs"]
    given = set(yaml.safe_load(written)["jobs"]["plumbline"]["with"])
    assert {name for name, one in inputs.items() if one.get("required")} <= given <= set(inputs)
