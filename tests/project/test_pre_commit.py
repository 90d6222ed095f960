"""`.pre-commit-config.yaml` runs what `nox -s lint` runs: the same tools in the same versions on the same files."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAND_IN = '#!/bin/sh\necho "$(basename "$0") $*" >> "$LOG"\n'
"""Answers for each program of the session's environment, and writes down how it was called."""
OWN = {"--force-exclude", "--check", "."}
"""Words of one side alone: pre-commit names the files itself, and has ruff write a file anew instead of refusing it."""

Calls = Mapping[tuple[str, ...], frozenset[str]]


def pair(words: list[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """A call as the tool with its options, and the files that it is given."""
    if words[:2] == ["python", "-m"]:
        words = [words[2].replace("_", "-"), *words[3:]]
    files = [word for word in words if (ROOT / word).is_file()]
    return tuple(word for word in words if word not in {*files, *OWN}), frozenset(files)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Calls:
    """What `nox -s lint` calls, with programs that only say so."""
    folder = tmp_path_factory.mktemp("lint")
    for program in ("python", "zizmor", "shellcheck", "hadolint"):
        (folder / program).write_text(STAND_IN, encoding="utf-8")
        (folder / program).chmod(0o755)
    environment = {**os.environ, "PLUMBLINE_PYTHON": str(folder / "python"), "LOG": str(folder / "log")}
    environment |= {"NOX_SCRIPT_MODE": "none", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "nox", "-s", "lint"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    return dict(pair(line.split()) for line in (folder / "log").read_text(encoding="utf-8").splitlines())


def hooks() -> list[dict[str, Any]]:
    """Of the configuration, which clones nothing."""
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [one["repo"] for one in repositories] == ["local"]
    return list(repositories[0]["hooks"])


def tracked() -> Iterator[str]:
    """Files of the repository; pre-commit takes no links for files."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return (name for name in listed if (ROOT / name).is_file() and not (ROOT / name).is_symlink())


def call(hook: Mapping[str, Any]) -> tuple[tuple[str, ...], frozenset[str]]:
    """What a hook calls for all files."""
    words = shlex.split(hook["entry"].replace(".nox/cpu/bin/", ""))
    options, named = pair(words)
    if not hook.get("pass_filenames", True):
        return options, named
    assert not named
    if "files" not in hook:  # every Python file, which the session has as the whole folder
        assert hook["types_or"] == ["python", "pyi"]
        return options, frozenset()
    return options, frozenset(name for name in tracked() if re.search(hook["files"], name))


def test_every_tool_of_the_session_is_a_hook_on_the_same_files(session: Calls) -> None:
    found = dict(map(call, hooks()))
    resolved = {
        options: frozenset(str((ROOT / name).resolve().relative_to(ROOT)) for name in files)
        for options, files in session.items()
    }
    assert found == resolved
    assert len(found) == len(hooks())


def test_no_hook_is_without_files() -> None:
    """One whose pattern fits nothing would pass for ever."""
    names = list(tracked())
    patterns = [hook["files"] for hook in hooks() if "files" in hook]
    assert [pattern for pattern in patterns if not any(re.search(pattern, name) for name in names)] == []


def test_versions_are_those_of_the_session() -> None:
    lines = (ROOT / "requirements" / "lint.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("#")[0].strip() for line in lines}
    for hook in hooks():
        if hook["language"] == "python":
            assert set(hook["additional_dependencies"]) <= pinned, hook["id"]
            (package,) = hook["additional_dependencies"]
            assert package.partition("==")[0].removesuffix("-py").removesuffix("-bin") == shlex.split(hook["entry"])[0]
        else:
            assert shlex.split(hook["entry"])[0] == ".nox/cpu/bin/python", hook["id"]
