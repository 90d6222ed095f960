"""`python -m ci latest`: the last green run of a workflow on a branch that still has a baseline, which drift is compared with.

GitHub throws artifacts away after some time (90 days, if nobody says otherwise), and people throw them away, too.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ci import service
from ci.github import ask
from validation.case.errors import ExitCode

_TRUSTED = ("schedule", "workflow_dispatch", "push")
"""Events that run what is on the branch. Each is asked for by its name: GitHub's filter by branch takes a fork's branch of the
same name, too, and pull requests from such branches may be any number, and newer."""
_PAGE = 100
"""The most that GitHub gives at once. What is older has no baseline any more, or none that a branch should be held to."""
_MOST_ASKED = 30
"""Runs that are asked for their baseline, a question each: a job's token has a thousand an hour, all pull requests together."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--workflow", default="", metavar="FILE", help="file name of the workflow, such as nightly.yml")
    parser.add_argument("--branch", required=True, metavar="NAME", help="the base branch, with or without refs/heads/")
    parser.add_argument(
        "--artifact", default="baseline", metavar="NAME", help="that the run must still have (default baseline)"
    )


def main(options: argparse.Namespace) -> int:
    """Print `run=ID` for $GITHUB_OUTPUT, or `run=` with a sentence about why drift is left out. No baseline is no failure."""
    run, said = _found(options.workflow, options.branch.removeprefix("refs/heads/"), options.artifact)
    sys.stdout.write(f"run={run or ''}\n")
    if not run:
        _say(f"Drift is left out: {said}.\n")
    return int(ExitCode.PASS)


def _say(sentence: str) -> None:
    """In the log, and in the job's summary where there is one."""
    sys.stderr.write(sentence)
    summary = service.summary(os.environ)
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(f"\n{sentence}")


def _found(workflow: str, branch: str, artifact: str) -> tuple[int | None, str]:
    """The run, or why there is none."""
    if not workflow:
        return None, "no baseline workflow is named"
    green = _green(workflow, branch)
    if not green:
        return None, f"there is no green run of {workflow} on {branch}"
    asked = green[:_MOST_ASKED]
    found = next((run for run in asked if _has(run, artifact)), None)
    counted = f"the last {len(asked)} green runs" if len(asked) > 1 else "the only green run"
    return found, f"{counted} of {workflow} on {branch} kept no artifact {artifact}, or it has expired"


def _green(workflow: str, branch: str) -> list[int]:
    """The green runs of this repository, the newest first."""
    found: set[int] = set()
    for event in _TRUSTED:
        where = ("actions", "workflows", workflow, "runs")
        answer = ask(*where, branch=branch, status="success", event=event, per_page=str(_PAGE))
        found |= {int(run["id"]) for run in _listed(answer, "workflow_runs") if _is_ours(run, branch)}
    return sorted(found, reverse=True)


def _is_ours(run: Any, branch: str) -> bool:
    """Whether it ran what is on this repository's branch. `ask` has refused a job without a repository."""
    here = (run.get("head_repository") or {}).get("full_name") == os.environ["GITHUB_REPOSITORY"]
    return here and run.get("event") in _TRUSTED and run.get("head_branch") == branch


def _has(run: int, artifact: str) -> bool:
    answer = ask("actions", "runs", str(run), "artifacts", name=artifact)
    return any(one.get("name") == artifact and one.get("expired") is False for one in _listed(answer, "artifacts"))


def _listed(answer: Any, name: str) -> list[Any]:
    """A list in an answer; empty where there is nothing of that name."""
    return answer.get(name) or [] if isinstance(answer, dict) else []
