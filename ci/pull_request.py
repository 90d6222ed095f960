"""Which pull request a finished run was for. GitHub's event and its API say so, and nothing that the run has left."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci.github import ask_all
from validation.case.errors import UsageError

EVENT = "workflow_run"
_SHA = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True)
class Finished:
    """A run of a workflow that has ended. `repository` is the one that `branch` is in: a fork's, or this one."""

    run: int
    attempt: int
    event: str
    conclusion: str
    commit: str
    branch: str
    repository: str


def finished(environment: Mapping[str, str]) -> Finished:
    """What GitHub says of the run that has started this one. Raises UsageError where none has."""
    name = environment.get("GITHUB_EVENT_NAME")
    if name != EVENT:
        raise UsageError(f"GITHUB_EVENT_NAME is {name or 'not set'}; this runs in a workflow that `on: {EVENT}` starts")
    try:
        told = json.loads(Path(environment["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))[EVENT]
        found = _read(told)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"GITHUB_EVENT_PATH names no event of the kind {EVENT} ({error!r}); GitHub writes that file") from None
    if not (_SHA.fullmatch(found.commit) and _REPOSITORY.fullmatch(found.repository)):
        raise UsageError(f"GITHUB_EVENT_PATH: no commit or no repository in the event {EVENT}; GitHub writes that file")
    return found


def _read(told: Any) -> Finished:
    return Finished(
        run=int(told["id"]),
        attempt=int(told["run_attempt"]),
        event=str(told["event"]),
        conclusion=str(told["conclusion"]),
        commit=str(told["head_sha"]),
        branch=str(told["head_branch"] or ""),
        repository=str((told["head_repository"] or {}).get("full_name")),
    )


def number(run: Finished, environment: Mapping[str, str]) -> tuple[int, str]:
    """The pull request's number, or 0 and the sentence why there is none to write to.

    GitHub's event names no pull request of a fork, so that it is looked for by the branch. It must still be open and at the
    run's commit: of an older push the run says nothing that anybody wants to know.
    """
    if run.event != "pull_request":
        return 0, f"the run was started by {run.event}, which is no pull request"
    owner, _ = run.repository.split("/")
    asked = ask_all("pulls", environment=environment, state="open", head=f"{owner}:{run.branch}")
    found = [int(one["number"]) for one in asked if _is_of(one, run, environment["GITHUB_REPOSITORY"])]
    if len(found) == 1:
        return found[0], ""
    where = f"branch {run.branch} of {run.repository} at {run.commit[:12]}"
    if not found:
        return 0, f"no open pull request is of {where}: it was closed, or something newer was pushed"
    return 0, f"{len(found)} open pull requests are of {where}, and the run does not say which of them it was for"


def _is_of(pull: Any, run: Finished, here: str) -> bool:
    head, base = pull.get("head") or {}, pull.get("base") or {}
    from_there = (head.get("repo") or {}).get("full_name") == run.repository
    return from_there and head.get("sha") == run.commit and (base.get("repo") or {}).get("full_name") == here
