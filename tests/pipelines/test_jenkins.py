"""The Jenkinsfile: CodeNarc's Groovy parses it, and its shell scripts are run as Jenkins would run them, green and red."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pipelines.team import HERE, LAYOUTS, TEMPLATES, Sessions, environment, everything, repository, results
from tests.workflows.made import COMMIT

TEMPLATE = TEMPLATES / "Jenkinsfile"
LINTER = HERE / "node_modules" / ".bin" / "npm-groovy-lint"
NEEDED = "Java 17 and npm-groovy-lint are needed: npm ci --prefix tests/pipelines; apt-get install default-jre-headless"
SESSIONS = [f"cpu_{layout}" for layout in LAYOUTS]
BUILD = "https://jenkins.example/job/megatron/7/"


def text() -> str:
    """The template as a team fills it in."""
    written = TEMPLATE.read_text(encoding="utf-8")
    return written.replace("PLUMBLINE_REF = 'COMMIT'", f"PLUMBLINE_REF = '{COMMIT}'")


def variables() -> dict[str, str]:
    """Of the block `environment`, which every shell has, and those that Jenkins sets."""
    block = text().partition("    environment {\n")[2].partition("\n    }\n")[0]
    own = dict(re.findall(r"^        (\w+) = '(.*?)'(?: //.*)?$", block, re.MULTILINE))
    assert len(own) == len(block.splitlines())
    return {**own, "JENKINS_URL": "https://jenkins.example/", "BUILD_URL": BUILD}


def scripts() -> tuple[str, str]:
    """Those of a session and of the gate. Groovy takes a backslash at the end of a line, and the end, out of a string."""
    session, gate = re.findall(r"sh '''\n(.*?)'''", text(), re.DOTALL)
    return session.replace("\\\n", ""), gate.replace("\\\n", "")


def matrix() -> list[str]:
    """The values of its one axis."""
    (values,) = re.findall(r"^ *values (.*)$", text(), re.MULTILINE)
    return re.findall(r"'([^']*)'", values)


@dataclass(frozen=True)
class Built:
    """The exit code of each session and of the gate, what the gate printed, and its report."""

    sessions: Mapping[str, int]
    gate: int
    output: str
    report: Path


def sh(script: str, folder: Path, told: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """As Jenkins' step `sh` does it: every command is shown, and the first that fails ends it."""
    quiet = {name: value for name, value in os.environ.items() if name not in told}
    return subprocess.run(
        ["sh", "-xe", "-c", script],
        cwd=folder,
        env={**quiet, **told},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def built(folder: Path, happens: Sessions) -> Built:
    """What comes of a build: a workspace for each cell, results stashed, and unstashed for the gate."""
    manifest, team, left = folder / "manifest.json", folder / "team", folder / "made"
    everything(manifest)
    megatron = repository(team, "Jenkinsfile", text())
    results(left, manifest, megatron, happens)
    told = {**variables(), **environment(manifest, left), "TEAM_HEAD": megatron}
    session, gate = scripts()
    codes, judging = {}, folder / "gate"
    judging.mkdir()
    for name in matrix():
        workspace = folder / name
        workspace.mkdir()
        codes[name] = sh(session, workspace, {**told, "SESSION": name}).returncode
        if (workspace / ".plumbline" / "results").is_dir():
            shutil.copytree(workspace / ".plumbline" / "results", judging / ".plumbline" / "results", dirs_exist_ok=True)
    ended = sh(gate, judging, told)
    return Built(codes, ended.returncode, f"{ended.stdout}{ended.stderr}", judging / ".plumbline" / "report")


def test_green(tmp_path: Path) -> None:
    found = built(tmp_path, Sessions())
    assert found.sessions == dict.fromkeys(SESSIONS, 0)
    assert found.gate == 0, found.output
    assert "===== Gate: GREEN (8 testsuites" in found.output
    assert (found.report / "summary.md").read_text(encoding="utf-8").startswith("## Plumbline: 🟢 GREEN")
    assert f"({BUILD}artifact/)" in (found.report / "summary.md").read_text(encoding="utf-8")


def test_red(tmp_path: Path) -> None:
    """One check fails, one session is broken, one has run another Megatron, and each is a reason."""
    happens = Sessions(red=("cpu_tp2",), codes={"cpu_tp2": 1, "cpu_pp2": 3}, unmade=("cpu_pp2",), others=("cpu_single",))
    found = built(tmp_path, happens)
    assert found.sessions == {**dict.fromkeys(SESSIONS, 0), "cpu_tp2": 1, "cpu_pp2": 3}
    assert found.gate == 1
    for reason in (
        "1 check fails: Layer 0 Attention Output",
        "results-cpu_pp2/tiny-pp2-fp64-local-gloo.xml: is missing",
        f"made with the Megatron {'d' * 40}",
    ):
        assert reason in found.output
    assert "The run on Jenkins" in (found.report / "index.html").read_text(encoding="utf-8")


def test_the_matrix_and_the_layouts_are_the_same() -> None:
    assert matrix() == [f"cpu_{layout}" for layout in variables()["PLUMBLINE_LAYOUTS"].split(",")] == SESSIONS


def test_a_failed_session_does_not_keep_the_gate_from_running() -> None:
    """A stage after one that has thrown an error is skipped."""
    written = text()
    assert written.index("catchError(buildResult: 'FAILURE'") < written.index("sh '''")
    assert written.count("catchError(buildResult: 'FAILURE', stageResult: 'FAILURE')") == 2
    gate = written.partition("stage('Gate')")[2]
    assert "catchError" not in gate.partition("sh '''")[2]


def test_groovy_parses_it_and_sees_mistakes(tmp_path: Path) -> None:
    """Whether Jenkins takes it is Jenkins' to say."""
    if not (shutil.which("java") and LINTER.exists()):
        pytest.skip(NEEDED)
    for name, written in (("right", text()), ("wrong", text().replace("script {", "script "))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Jenkinsfile").write_text(written, encoding="utf-8")
    command = [str(LINTER), "--noserver", "--path", str(tmp_path), "--files", "**/Jenkinsfile", "--output", "json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800, check=False)
    files = json.loads(done.stdout[done.stdout.index("{") :])["files"]
    errors = {
        Path(path).parent.name: [one["rule"] for one in found["errors"] if one["severity"] == "error"]
        for path, found in files.items()
    }
    assert errors["right"] == []
    assert errors["wrong"] != []
