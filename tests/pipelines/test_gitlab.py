"""The GitLab template, run by gitlab-ci-local, which reads .gitlab-ci.yml as GitLab's runner does: jobs, matrix, artifacts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci import junit
from tests.pipelines.team import HERE, LAYOUTS, ROOT, TEMPLATES, Sessions, environment, everything, repository, results
from tests.workflows.conftest import IN_CI
from tests.workflows.made import COMMIT

TEMPLATE = TEMPLATES / "gitlab-ci.yml"
PROGRAM = HERE / "node_modules" / "gitlab-ci-local" / "dist" / "index.js"
NEEDED = "Node.js 20, rsync and gitlab-ci-local are needed: npm ci --prefix tests/pipelines; apt-get install rsync"
SESSIONS = tuple(f"cpu_{layout}" for layout in LAYOUTS)
GATE = "plumbline-gate"


def text() -> str:
    """The template as a team fills it in."""
    written = TEMPLATE.read_text(encoding="utf-8")
    return written.replace("https://gitlab.example.com/GROUP/plumbline", "https://gitlab.example/group/plumbline").replace(
        "PLUMBLINE_REF: COMMIT", f"PLUMBLINE_REF: {COMMIT}"
    )


def without(written: str) -> Callable[[str], str]:
    """The template without a piece of it."""

    def edit(template: str) -> str:
        assert template.count(written) == 1
        return template.replace(written, "")

    return edit


@dataclass(frozen=True)
class Pipeline:
    """What happens, and what somebody has changed in the template."""

    happens: Sessions = field(default_factory=Sessions)
    edit: Callable[[str], str] = str


PIPELINES = {
    "green": Pipeline(),
    "red": Pipeline(Sessions(red=("cpu_tp2",), codes={"cpu_tp2": 1, "cpu_pp2": 3}, unmade=("cpu_pp2",))),
    "in silence": Pipeline(
        Sessions(red=("cpu_tp2",), unmade=("cpu_pp2",), others=("cpu_single",)), edit=without(", cpu_tp2ep2")
    ),
}
"""In the last one every job ends well, but for the gate, and one is missing."""


@dataclass(frozen=True)
class Ran:
    """How each job ended, what was printed, and the folders of artifacts by job."""

    jobs: Mapping[str, str]
    output: str
    artifacts: Mapping[str, Path]

    def report(self, name: str) -> str:
        """A file of the gate's report."""
        return (self.artifacts[GATE] / ".plumbline" / "report" / name).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Ran]:
    """Every pipeline, run once; the reason if it cannot be, which in CI is a failure."""
    if not (shutil.which("node") and shutil.which("rsync") and PROGRAM.exists()):
        (pytest.fail if IN_CI else pytest.skip)(NEEDED)
    folder = tmp_path_factory.mktemp("gitlab")
    everything(folder / "manifest.json")
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(PIPELINES, pool.map(lambda name: run(folder, name), PIPELINES), strict=True))


def run(folder: Path, name: str) -> Ran:
    """What comes of a pipeline."""
    place = folder / name.replace(" ", "-")
    place.mkdir()
    team, left, manifest = place / "team", place / "made", folder / "manifest.json"
    results(left, manifest, repository(team, ".gitlab-ci.yml", PIPELINES[name].edit(text())), PIPELINES[name].happens)
    told = {
        "CI_PIPELINE_SOURCE": "merge_request_event",
        "CI_PROJECT_PATH": "group/team/megatron",
        **environment(manifest, left),
    }
    given = [word for variable in told.items() for word in ("--variable", "=".join(variable))]
    command = ["node", str(PROGRAM), "--force-shell-executor", "--shell-isolation", "--no-color", *given]
    home = {**os.environ, "HOME": str(place), "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(command, cwd=team, env=home, capture_output=True, text=True, timeout=3000, check=False)
    output = f"{done.stdout}{done.stderr}"
    jobs = {job: ended for ended, job in re.findall(r"^ (PASS|FAIL)  (\S.*?)\s*$", output, re.MULTILINE)}
    kept = {job: _artifacts(team, job) for job in jobs}
    return Ran(jobs, output, kept)


def _artifacts(team: Path, job: str) -> Path:
    """The folder of a job, in whose name gitlab-ci-local writes all that is no letter in another way."""
    words = re.findall(r"\w+", job)
    kept = sorted((team / ".gitlab-ci-local" / "artifacts").iterdir(), key=lambda path: len(path.name))
    return next((path for path in kept if all(word in path.name for word in words)), team / "nothing")


def test_green(ran: Mapping[str, Ran]) -> None:
    assert ran["green"].jobs == dict.fromkeys([*(f"plumbline: [{name}]" for name in SESSIONS), GATE], "PASS")
    assert "===== Gate: GREEN (8 testsuites" in ran["green"].output


@pytest.mark.parametrize(
    ("name", "red", "says"),
    [
        (
            "red",
            {"plumbline: [cpu_tp2]", "plumbline: [cpu_pp2]", GATE},
            ("1 check fails: Layer 0 Attention Output", "results-cpu_pp2/tiny-pp2-fp64-local-gloo.xml: is missing"),
        ),
        (
            "in silence",
            {GATE},
            (
                "1 check fails: Layer 0 Attention Output",
                "results-cpu_pp2/tiny-pp2-fp64-local-gloo.xml: is missing",
                f"made with the Megatron {'d' * 40}",
                "results-cpu_tp2ep2/tiny-tp2ep2-fp64-local-gloo.xml: is missing",
            ),
        ),
    ],
)
def test_the_gate_is_red_and_says_why(ran: Mapping[str, Ran], name: str, red: set[str], says: tuple[str, ...]) -> None:
    """It runs whatever became of the sessions, and reads the results of those that failed."""
    assert {name for name, ended in ran[name].jobs.items() if ended == "FAIL"} == red
    assert [sentence for sentence in says if sentence not in ran[name].output] == []
    assert "===== Gate: RED" in ran[name].output


def test_a_layout_that_only_the_matrix_has_is_no_session() -> None:
    """Nox ends with an error, so its job is red."""
    done = subprocess.run(
        [sys.executable, "-m", "nox", "-s", "cpu_tp2ep2"],
        cwd=ROOT,
        env={**os.environ, "PLUMBLINE_LAYOUTS": "single,tp2,pp2", "NOX_SCRIPT_MODE": "none"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode != 0
    assert "cpu_tp2ep2" in done.stderr


def test_results_are_kept_as_junit_reports_and_for_the_gate(ran: Mapping[str, Ran]) -> None:
    """GitLab reads the files that match `reports: junit`, of red jobs too."""
    pattern = jobs()["plumbline"]["artifacts"]["reports"]["junit"]
    for session in SESSIONS:
        files = sorted(ran["red"].artifacts[f"plumbline: [{session}]"].glob(pattern))
        assert len(files) == (0 if session == "cpu_pp2" else 2), session
        assert all(junit.read(path).checks for path in files)


def test_the_report_is_kept_whatever_the_verdict_is(ran: Mapping[str, Ran]) -> None:
    for name in ("green", "red", "in silence"):
        assert ran[name].report("index.html").startswith("<!doctype html>")
    assert ran["green"].report("summary.md").startswith("## Plumbline: 🟢 GREEN")
    assert ran["red"].report("summary.md").startswith("## Plumbline: 🔴 RED")


def test_the_report_links_to_gitlab(ran: Mapping[str, Ran]) -> None:
    page = ran["red"].report("index.html")
    assert "The run on GitLab" in page
    assert f"https://gitlab.example/group/plumbline/-/blob/{COMMIT}/docs/first-red-check.md" in page
    assert re.search(r"\]\(https://gitlab\.example/group/team/megatron/\S+/artifacts/browse\)", ran["red"].report("summary.md"))


def jobs() -> dict[str, Any]:
    """The template's jobs."""
    content = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_the_matrix_and_the_layouts_are_the_same() -> None:
    variables = jobs()[".plumbline"]["variables"]
    (matrix,) = jobs()["plumbline"]["parallel"]["matrix"]
    assert matrix["SESSION"] == [f"cpu_{layout}" for layout in variables["PLUMBLINE_LAYOUTS"].split(",")]
    assert tuple(variables["PLUMBLINE_LAYOUTS"].split(",")) == LAYOUTS


def test_the_gate_runs_whenever_sessions_run() -> None:
    sessions, gate = jobs()[".plumbline"]["rules"], jobs()[GATE]["rules"]
    assert gate == [{**rule, "when": "always"} for rule in sessions]


def test_no_job_may_fail_unnoticed() -> None:
    """GitLab takes a pipeline for green if the jobs that fail are allowed to."""
    assert [name for name, job in jobs().items() if "allow_failure" in job or "retry" in job] == []
