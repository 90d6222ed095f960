"""`python -m ci latest`: the last green run of a workflow on a branch, whose results are the baseline for drift."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ci.github import ask
from validation.case.errors import ExitCode

_TRUSTED = ("schedule", "workflow_dispatch", "push")
"""Events that run what is on the branch. GitHub's filter by branch takes a fork's branch of the same name, too."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--workflow", default="", metavar="FILE", help="file name of the workflow, such as nightly.yml")
    parser.add_argument("--branch", required=True, metavar="NAME", help="the base branch, with or without refs/heads/")


def main(options: argparse.Namespace) -> int:
    """Print `run=ID` for $GITHUB_OUTPUT, or `run=` with a sentence about why drift is left out. No baseline is no failure."""
    branch = options.branch.removeprefix("refs/heads/")
    run = _last(options.workflow, branch) if options.workflow else None
    sys.stdout.write(f"run={run or ''}\n")
    if not run:
        said = (
            f"there is no green run of {options.workflow} on {branch}" if options.workflow else "no baseline workflow is named"
        )
        _say(f"Drift is left out: {said}.\n")
    return int(ExitCode.PASS)


def _say(sentence: str) -> None:
    """In the log, and in the job's summary where there is one."""
    sys.stderr.write(sentence)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(f"\n{sentence}")


def _last(workflow: str, branch: str) -> int | None:
    answer = ask("actions", "workflows", workflow, "runs", branch=branch, status="success", per_page="50")
    runs: list[Any] = answer.get("workflow_runs", []) if isinstance(answer, dict) else []
    found = [run for run in runs if run.get("event") in _TRUSTED and run.get("head_branch") == branch]
    ours = os.environ.get("GITHUB_REPOSITORY", "")
    return next((int(run["id"]) for run in found if (run.get("head_repository") or {}).get("full_name") == ours), None)
