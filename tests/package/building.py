"""Building the package from a copy of the repository, and installing it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
_QUIET = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
_WHO = (
    "-c",
    "user.name=a",
    "-c",
    "user.email=a@example.com",
    "-c",
    "init.defaultBranch=main",
    "-c",
    "core.hooksPath=/dev/null",
)


def run(command: Sequence[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command as a user's shell runs it, which has no PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    return subprocess.run(
        command, cwd=folder, env={**environment, **variables}, capture_output=True, text=True, timeout=1800, check=False
    )


def files(root: Path) -> list[str]:
    """What git has, or would have, of the repository."""
    asked = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in listed if name and (root / name).is_file()]


def tagged(tree: Path, tag: str) -> str:
    """A repository of the files of this one as they are, with one commit that has this tag; the commit."""
    for name in files(ROOT):
        if not name.startswith(("tests/", "docs/", "benchmarks/")):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "a"], ["tag", tag]):
        _git(tree, *words)
    return _git(tree, "rev-parse", "HEAD")


def _git(tree: Path, *words: str) -> str:
    command = ["git", *_WHO, *words]
    return subprocess.run(
        command, cwd=tree, env={**os.environ, **_QUIET}, capture_output=True, text=True, check=True
    ).stdout.strip()


def build(tree: Path, out: Path, *words: str) -> None:
    """`python -m build` with what is installed here, so that no test needs a network."""
    done = run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *words, "."], tree)
    assert done.returncode == 0, done.stdout + done.stderr


def installed(what: Path, folder: Path, *words: str) -> Path:
    """An environment with it, and with what the environment of these tests has: torch is not installed a second time."""
    environment = folder / "environment"
    made = run([sys.executable, "-m", "venv", "--without-pip", str(environment)], folder)
    assert made.returncode == 0, made.stderr
    (packages(environment) / "shared.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", "--quiet", "--no-deps"]
    done = run([*pip, "--no-index", *words, str(what)], folder)
    assert done.returncode == 0, done.stderr
    return environment


def packages(environment: Path) -> Path:
    """Where an environment keeps what is installed into it."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
