"""What GitHub Actions, GitLab and Jenkins say of a run, read in one place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from ci import commit, service
from ci.links import Links, links
from ci.reproduction import Sources, sources
from ci.service import PREFIXES, Told, told
from tests.ci.test_links import ON_GITHUB

SHA = "c" * 40
ON_GITLAB = {
    "GITLAB_CI": "true",
    "CI_SERVER_URL": "https://gitlab.example:8443",
    "CI_PIPELINE_URL": "https://gitlab.example:8443/group/team/megatron/-/pipelines/77",
    "CI_JOB_URL": "https://gitlab.example:8443/group/team/megatron/-/jobs/5",
    "CI_COMMIT_SHA": SHA,
    "PLUMBLINE_REPOSITORY": "group/tools/plumbline",
    "PLUMBLINE_REF": "c0ffee",
}
ON_JENKINS = {
    "JENKINS_URL": "https://jenkins.example/",
    "BUILD_URL": "https://jenkins.example/job/team/job/megatron/view/change-requests/job/PR%2D7/3/",
    "GIT_COMMIT": SHA,
    "PLUMBLINE_REPOSITORY": "https://gitlab.com/group/plumbline.git",
    "PLUMBLINE_REF": "v1.0",
}


def test_on_github() -> None:
    run = "https://github.example/team/megatron/actions/runs/77"
    assert told({**ON_GITHUB, "GITHUB_ACTIONS": "true", "GITHUB_SHA": SHA, "GITHUB_RUN_ATTEMPT": "2"}) == Told(
        service="GitHub",
        server="https://github.example",
        files="blob",
        run=run,
        artifacts=f"{run}#artifacts",
        commit=SHA,
        attempt="2",
    )


@pytest.mark.parametrize("mark", ["GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL"])
def test_what_a_service_does_not_say_is_empty(mark: str) -> None:
    found = told({mark: "true"})
    assert (found.run, found.artifacts, found.commit, found.attempt) == ("", "", "", "")


def test_artifacts_of_jenkins_are_below_the_build_whatever_it_ends_with() -> None:
    assert told({"JENKINS_URL": "a", "BUILD_URL": "https://jenkins.example/job/X"}).artifacts == (
        "https://jenkins.example/job/X/artifact/"
    )


def test_on_gitlab() -> None:
    assert told(ON_GITLAB) == Told(
        service="GitLab",
        server="https://gitlab.example:8443",
        groups=True,
        files="-/blob",
        run="https://gitlab.example:8443/group/team/megatron/-/pipelines/77",
        artifacts="https://gitlab.example:8443/group/team/megatron/-/jobs/5/artifacts/browse",
        commit=SHA,
    )


def test_on_jenkins() -> None:
    build = "https://jenkins.example/job/team/job/megatron/view/change-requests/job/PR%2D7/3/"
    assert told(ON_JENKINS) == Told(service="Jenkins", run=build, artifacts=f"{build}artifact/", commit=SHA)


@pytest.mark.parametrize("marked", [{}, {"GITHUB_ACTIONS": ""}, {"GITLAB_CI": "", "JENKINS_URL": ""}])
def test_without_a_mark_githubs_variables_count(marked: Mapping[str, str]) -> None:
    assert told({**ON_GITHUB, **marked}).run == "https://github.example/team/megatron/actions/runs/77"
    assert told(marked) == Told("GitHub", files="blob")


@pytest.mark.parametrize(
    ("marks", "service_told"),
    [
        (("GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL"), "GitHub"),
        (("GITLAB_CI", "JENKINS_URL"), "GitLab"),
        (("JENKINS_URL",), "Jenkins"),
    ],
)
def test_one_service_counts_and_what_another_left_does_not(marks: tuple[str, ...], service_told: str) -> None:
    everything = {**ON_GITHUB, **ON_GITLAB, **ON_JENKINS}
    asked = {name: value for name, value in everything.items() if name not in ("GITLAB_CI", "JENKINS_URL")}
    assert told({**asked, **dict.fromkeys(marks, "true")}).service == service_told


def test_links_of_each_service() -> None:
    assert links(ON_GITLAB) == Links(
        run=ON_GITLAB["CI_PIPELINE_URL"],
        docs="https://gitlab.example:8443/group/tools/plumbline/-/blob/c0ffee/docs",
        report=f"{ON_GITLAB['CI_JOB_URL']}/artifacts/browse",
        service="GitLab",
    )
    assert links(ON_JENKINS) == Links(
        run=ON_JENKINS["BUILD_URL"],
        docs="https://gitlab.com/group/plumbline/-/blob/v1.0/docs",
        report=f"{ON_JENKINS['BUILD_URL']}artifact/",
        service="Jenkins",
    )


@pytest.mark.parametrize(
    ("named", "docs"),
    [
        ("https://github.com/o/plumbline", "https://github.com/o/plumbline/blob/c0ffee/docs"),
        ("https://gitlab.com/o/plumbline.git", "https://gitlab.com/o/plumbline/-/blob/c0ffee/docs"),
        ("https://gitlab.example:8443/o/plumbline", "https://gitlab.example:8443/o/plumbline/-/blob/c0ffee/docs"),
        ("https://elsewhere.example/o/plumbline", ""),
        ("https://github.com.example/o/plumbline", ""),
    ],
)
def test_a_plumbline_on_another_server_is_named_by_its_address(named: str, docs: str) -> None:
    """The address of a file there is known for two servers, and for the one that the run is on."""
    environment = {**ON_GITLAB, "PLUMBLINE_REPOSITORY": named, "MEGATRON_REPOSITORY": "group/team/megatron"}
    assert links(environment).docs == docs
    assert sources(environment) == Sources(named, "https://gitlab.example:8443/group/team/megatron", ".", "")


@pytest.mark.parametrize(
    ("environment", "name", "value"),
    [
        (ON_GITLAB, "CI_SERVER_URL", "https://gitlab.example/a"),
        (ON_GITLAB, "CI_PIPELINE_URL", "javascript:alert(1)"),
        (ON_GITLAB, "CI_PIPELINE_URL", "https://a.example/b)c"),
        (ON_GITLAB, "CI_PIPELINE_URL", "https://a.example/../b"),
        (ON_GITLAB, "CI_JOB_URL", "https://a.example/b c"),
        (ON_GITLAB, "PLUMBLINE_REPOSITORY", "plumbline"),
        (ON_GITLAB, "PLUMBLINE_REPOSITORY", "a/../b"),
        (ON_GITLAB, "PLUMBLINE_REPOSITORY", "https://user:secret@gitlab.com/a/b"),
        (ON_GITLAB, "PLUMBLINE_REPOSITORY", "https://gitlab.com/a/../b"),
        (ON_GITLAB, "PLUMBLINE_REF", "a/../b"),
        (ON_GITLAB, "PLUMBLINE_REF", ""),
        (ON_JENKINS, "BUILD_URL", "ftp://jenkins.example/1/"),
        (ON_JENKINS, "PLUMBLINE_REPOSITORY", "group/plumbline"),
        (ON_JENKINS, "PLUMBLINE_REF", "a b"),
    ],
)
def test_what_would_make_another_address_of_it_makes_none(environment: Mapping[str, str], name: str, value: str) -> None:
    found, of = links({**environment, name: value}), links(environment)
    assert found != of
    assert {found.run, found.docs, found.report} <= {of.run, of.docs, of.report, ""}


def test_only_gitlab_has_groups_in_groups() -> None:
    assert Told("GitHub", "https://a.example").repository("a/b/c") == ""
    assert Told("GitHub", "https://a.example").repository("a/b") == "https://a.example/a/b"
    assert Told("GitLab", "https://a.example", groups=True).repository("a/b/c") == "https://a.example/a/b/c"


@pytest.mark.parametrize("environment", [ON_GITLAB, ON_JENKINS])
def test_the_commit_is_the_services_if_there_is_no_git(tmp_path: Path, environment: Mapping[str, str]) -> None:
    assert commit.facts(tmp_path, environment) == {"commit": SHA, "dirty": "unknown"}


def test_the_summary_and_annotations_are_githubs() -> None:
    assert (service.summary(ON_GITLAB), service.annotates(ON_GITLAB)) == ("", False)
    assert (service.summary({"GITHUB_STEP_SUMMARY": "/a"}), service.annotates({"GITHUB_ACTIONS": "true"})) == ("/a", True)


def test_no_other_module_reads_a_services_variables() -> None:
    """A name in a string of the code; those that talk to GitHub itself may."""
    root, githubs = Path(service.__file__).parent, {"github", "latest", "permit", "pull_request", "comment"}
    variable = re.compile(rf'"({"|".join(PREFIXES)})[A-Z_]*"')
    found = {path.stem for path in root.rglob("*.py") if variable.search(path.read_text(encoding="utf-8"))}
    assert found <= githubs | {"service"}
