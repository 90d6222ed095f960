"""A team's repository with a pipeline of Plumbline's in it, and what its sessions leave.

Commands are the real ones. Stand-ins answer for git (Plumbline's checkout), for nox and for pip, as in tests/workflows.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ci import junit
from ci.expected import load
from tests.workflows import made

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORKFLOWS = ROOT / "tests" / "workflows"
TEMPLATES = ROOT / "ci" / "templates"
LAYOUTS = ("single", "tp2", "pp2", "tp2ep2")
"""As the templates have them."""


@dataclass(frozen=True)
class Sessions:
    """What happens to the sessions of a pipeline.

    `red` are those of which a check fails, `codes` are exit codes other than 0, `unmade` leave no results. `others` have run
    another Megatron than the team's commit.
    """

    red: tuple[str, ...] = ()
    codes: Mapping[str, int] = field(default_factory=dict)
    unmade: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def repository(folder: Path, name: str, text: str) -> str:
    """A repository with this one file, and its commit."""
    folder.mkdir()
    (folder / name).write_text(text, encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "Add the pipeline")
    git(folder, "remote", "add", "origin", "git@gitlab.example:group/team/megatron.git")
    return git(folder, "rev-parse", "HEAD")


def git(folder: Path, *words: str) -> str:
    """What git answers, as somebody without settings."""
    quiet = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.com", *words]
    return subprocess.run(command, env=quiet, capture_output=True, text=True, check=True).stdout.strip()


def everything(path: Path) -> None:
    """What `python -m ci manifest` writes of the templates' sessions, with each testsuite's first checks."""
    path.write_bytes(_everything())


@functools.cache
def _everything() -> bytes:
    """Once for the pipelines of both services."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.json"
        made.listed(path, ["--event", "workflow_call"], {**os.environ, "PLUMBLINE_LAYOUTS": ",".join(LAYOUTS)})
        return path.read_bytes()


def results(folder: Path, manifest: Path, megatron: str, happens: Sessions) -> None:
    """What each session leaves, in a folder of its name, made with the team's commit of Megatron."""
    folder.mkdir()
    made.green(load(manifest), folder)
    for session, code in {**dict.fromkeys(happens.unmade, 0), **happens.codes}.items():
        (folder / f"{session}.code").write_text(f"{code}\n", encoding="utf-8")
    for path in sorted(folder.glob("*/*.xml")):
        session = path.parent.name
        if session in happens.unmade:
            path.unlink()
            continue
        found = junit.read(path)
        said = {"megatron-path": "megatron", "megatron-commit": "d" * 40 if session in happens.others else megatron}
        junit.write(path, replace(found, properties={**found.properties, **said}))
        if session in happens.red:
            made.failing(path)
    for session in happens.unmade:
        (folder / session).rmdir()


def environment(manifest: Path, results: Path) -> dict[str, str]:
    """The variables that the stand-ins need. PATH finds them first."""
    return {
        "PATH": os.pathsep.join((str(HERE / "stand_ins"), str(WORKFLOWS / "stand_ins"), os.environ["PATH"])),
        "ROOT": str(ROOT),
        "WORKFLOWS": str(WORKFLOWS / "stand_ins"),
        "PYTHON": sys.executable,
        "NARROW": str(WORKFLOWS / "narrow.py"),
        "EVERYTHING": str(manifest),
        "MADE": str(results),
        "STAND_INS": str(HERE / "stand_ins"),
        "PLUMBLINE_HEAD": made.COMMIT,
        "PYTHONPATH": str(ROOT),
        "PYTHONSAFEPATH": "1",
    }
