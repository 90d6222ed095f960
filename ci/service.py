"""The CI service that runs this process, and what its variables say of the run: GitHub Actions, GitLab or Jenkins.

No other module reads these variables, except those that talk to GitHub itself (github.py, latest.py, permit.py,
pull_request.py). Without a service, or on one that is none of these, GitHub's variables count if they are set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

PREFIXES = ("GITHUB_", "GITLAB_", "CI_", "JENKINS_", "BUILD_", "GIT_COMMIT")
"""How the variables of all services begin; each service also sets CI to true."""
_SERVER = re.compile(r"https?://[A-Za-z0-9.:-]{1,200}")
_NAME = "[A-Za-z0-9._-]{1,100}"
_REPOSITORY = re.compile(f"{_NAME}/{_NAME}")
_IN_GROUPS = re.compile(f"{_NAME}(?:/{_NAME}){{1,20}}")
_NUMBER = re.compile("[0-9]{1,20}")
_ADDRESS = re.compile(r"https?://[A-Za-z0-9.:-]{1,200}(?:/[A-Za-z0-9._~%/-]{0,1000})?")
_REF = re.compile(r"[A-Za-z0-9._/-]{1,200}")
_FILES = {"https://github.com": "blob", "https://gitlab.com": "-/blob"}
"""Servers that are known without a run on them, and what stands before the ref in the address of a file."""


@dataclass(frozen=True)
class Told:
    """What a service says of a run. All of it is empty where the service does not say it.

    `server` is the address that the names of repositories are below; with `groups` a name may have more than two parts.
    `files` stands before the ref in the address of a file there. `run` is the address of the run, `artifacts` that of the
    list of its artifacts. `attempt` counts from 1.
    """

    service: str
    server: str = ""
    groups: bool = False
    files: str = ""
    run: str = ""
    artifacts: str = ""
    commit: str = ""
    attempt: str = ""

    def repository(self, named: str) -> str:
        """The address of a repository: `named` itself if it is one, else the repository of this name on the server."""
        if _ADDRESS.fullmatch(named) and ".." not in named:
            return named
        names = _IN_GROUPS if self.groups else _REPOSITORY
        return f"{self.server}/{named}" if self.server and names.fullmatch(named) and ".." not in named else ""

    def folder(self, named: str, ref: str, folder: str) -> str:
        """The address at which a reader sees a folder of a repository; empty for a server whose addresses are not known."""
        address = self.repository(named).removesuffix(".git")
        servers = {**_FILES, **({self.server: self.files} if self.server else {})}
        files = next((files for server, files in servers.items() if address.startswith(f"{server}/")), "")
        return f"{address}/{files}/{ref}/{folder}" if files and _REF.fullmatch(ref) and ".." not in ref else ""


class _Reader(Protocol):
    def __call__(self, environment: Mapping[str, str]) -> Told: ...


def told(environment: Mapping[str, str]) -> Told:
    """What the service that runs this process says."""
    return next((read(environment) for mark, read in _READERS.items() if environment.get(mark)), _github(environment))


def _github(environment: Mapping[str, str]) -> Told:
    server = said(environment, "GITHUB_SERVER_URL", _SERVER)
    repository = said(environment, "GITHUB_REPOSITORY", _REPOSITORY)
    number = said(environment, "GITHUB_RUN_ID", _NUMBER)
    run = f"{server}/{repository}/actions/runs/{number}" if server and repository and number else ""
    return Told(
        "GitHub",
        server=server,
        files="blob",
        run=run,
        artifacts=run and f"{run}#artifacts",
        commit=environment.get("GITHUB_SHA", ""),
        attempt=environment.get("GITHUB_RUN_ATTEMPT", ""),
    )


def _gitlab(environment: Mapping[str, str]) -> Told:
    """A job's artifacts have an address, and not a pipeline's: the job that asks is the one that keeps the page."""
    job = said(environment, "CI_JOB_URL", _ADDRESS)
    return Told(
        "GitLab",
        server=said(environment, "CI_SERVER_URL", _SERVER),
        groups=True,
        files="-/blob",
        run=said(environment, "CI_PIPELINE_URL", _ADDRESS),
        artifacts=job and f"{job}/artifacts/browse",
        commit=environment.get("CI_COMMIT_SHA", ""),
    )


def _jenkins(environment: Mapping[str, str]) -> Told:
    """Jenkins has no repositories of its own: those that are named need a whole address."""
    run = said(environment, "BUILD_URL", _ADDRESS)
    return Told("Jenkins", run=run, artifacts=run and f"{run.rstrip('/')}/artifact/", commit=environment.get("GIT_COMMIT", ""))


_READERS: dict[str, _Reader] = {"GITHUB_ACTIONS": _github, "GITLAB_CI": _gitlab, "JENKINS_URL": _jenkins}


def summary(environment: Mapping[str, str]) -> str:
    """The file in which GitHub takes Markdown for the page of the run; empty elsewhere."""
    return environment.get("GITHUB_STEP_SUMMARY", "")


def annotates(environment: Mapping[str, str]) -> bool:
    """Whether the service makes annotations of GitHub's workflow commands."""
    return environment.get("GITHUB_ACTIONS") == "true"


def said(environment: Mapping[str, str], name: str, pattern: re.Pattern[str]) -> str:
    """A variable's value; empty if there is none, or one that would make another address of it."""
    value = environment.get(name, "")
    return value if pattern.fullmatch(value) and ".." not in value else ""
