"""Results of an installed package name the commit that it was built from, and say whether its files are still those."""

from __future__ import annotations

import hashlib
import py_compile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ci import commit, installed
from validation.case import git, tree

SHA, OTHER = "a" * 40, "b" * 40
FILES = {"commands.py": "pass\n", "_root/ci/gate.py": "raise\n", "_root/ci/matrix.yaml": "rows: []\n"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What was installed, with what its build wrote down about it."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "build.json").touch()
    return tmp_path


def digests() -> dict[str, str]:
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in FILES.items()}


def facts(package: Path, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str] | None = None, **said: str) -> Any:
    """What results say of the package."""
    built = {"commit": SHA, "dirty": "false", "files": digests(), **said}
    monkeypatch.setattr(tree, "INSTALLED", True)
    monkeypatch.setattr(tree, "built", lambda: built)
    monkeypatch.setattr(commit, "ROOT", package / "_root")
    return commit.facts(package / "_root", environment or {})


def test_the_commit_is_that_of_the_build(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What GitHub says is a team's own."""
    assert facts(package, monkeypatch, {"GITHUB_SHA": OTHER}) == {"commit": SHA, "dirty": "false"}


def test_the_repository_around_it_is_not_asked(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "answer", lambda *asked: OTHER)
    assert facts(package, monkeypatch) == {"commit": SHA, "dirty": "false"}


def test_another_tree_is_asked_for_its_own(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts(package, monkeypatch)
    assert commit.facts(package, {"GITHUB_SHA": OTHER}) == {"commit": OTHER, "dirty": "unknown"}


@pytest.mark.parametrize("dirty", ["true", "unknown"])
def test_what_was_built_of_changed_files_says_so(package: Path, monkeypatch: pytest.MonkeyPatch, dirty: str) -> None:
    assert facts(package, monkeypatch, dirty=dirty)["dirty"] == dirty


def test_a_build_without_a_commit_says_none(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert facts(package, monkeypatch, commit="", dirty="unknown") == {"dirty": "unknown"}


def test_a_commit_that_somebody_names_counts(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert facts(package, monkeypatch, {commit.VARIABLE: OTHER}, dirty="true") == {"commit": OTHER, "dirty": "true"}


def test_a_job_that_was_run_again_says_which_attempt_it_is(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert facts(package, monkeypatch, {"GITHUB_RUN_ATTEMPT": "2"})["workflow_attempt"] == "2"


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_said(package: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (package / name).write_text("changed\n", encoding="utf-8")
    assert facts(package, monkeypatch)["dirty"] == "true"
    assert facts(package, monkeypatch, dirty="unknown")["dirty"] == "true"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_said(package: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (package / name).unlink()
    assert facts(package, monkeypatch)["dirty"] == "true"


@pytest.mark.parametrize("name", ["_root/ci/mine.py", "_root/conftest.py", "pytest.ini"])
def test_another_file_is_said(package: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (package / name).touch()
    assert facts(package, monkeypatch)["dirty"] == "true"


def test_what_python_compiles_is_no_change(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    py_compile.compile(str(package / "commands.py"), doraise=True)
    assert facts(package, monkeypatch)["dirty"] == "false"


def test_a_compiled_file_that_nobody_checks_is_said(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(package / "commands.py"), doraise=True, invalidation_mode=mode)
    assert facts(package, monkeypatch)["dirty"] == "true"


def test_files_are_named_from_the_package_on(package: Path) -> None:
    assert installed.as_built(package, digests())
    assert not installed.as_built(package / "_root", digests())
