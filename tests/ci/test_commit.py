"""Results say the commit that is checked out, and whether the files are those of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ci import commit

SHA = "c" * 40
QUIET = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


def git(folder: Path, *words: str) -> str:
    """What git answers, as somebody without settings."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    done = subprocess.run(["git", "-C", str(folder), *who, *words], env=QUIET, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with a commit."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci" / "gate.py").write_text("pass\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "a")
    return tmp_path


def test_a_clean_checkout_says_its_commit(tree: Path) -> None:
    assert commit.facts(tree, {}) == {"commit": git(tree, "rev-parse", "HEAD"), "dirty": "false"}


def test_what_is_checked_out_counts_and_not_what_github_says(tree: Path) -> None:
    """On pull_request events GITHUB_SHA is the merge commit; a job that checked out the head ran the head."""
    assert commit.facts(tree, {"GITHUB_SHA": SHA})["commit"] == git(tree, "rev-parse", "HEAD")


def test_changed_code_is_said(tree: Path) -> None:
    (tree / "ci" / "gate.py").write_text("raise\n")
    assert commit.facts(tree, {})["dirty"] == "true"


def test_new_code_is_said(tree: Path) -> None:
    """A check that is in no commit."""
    (tree / "validation").mkdir()
    (tree / "validation" / "test_mine.py").write_text("pass\n")
    assert commit.facts(tree, {})["dirty"] == "true"


def test_what_a_job_puts_beside_the_code_is_none(tree: Path) -> None:
    (tree / "results").mkdir()
    (tree / "results" / "a.xml").write_text("a")
    assert commit.facts(tree, {})["dirty"] == "false"


def test_without_git_github_says_the_commit_and_nobody_knows_whether_it_is_clean(tmp_path: Path) -> None:
    assert commit.facts(tmp_path, {"GITHUB_SHA": SHA}) == {"commit": SHA, "dirty": "unknown"}


def test_without_either_there_is_no_commit(tmp_path: Path) -> None:
    assert commit.facts(tmp_path, {}) == {"dirty": "unknown"}


@pytest.mark.parametrize(("attempt", "said"), [("1", {}), ("3", {"workflow_attempt": "3"})])
def test_jobs_that_somebody_ran_again_say_so(tree: Path, attempt: str, said: dict[str, str]) -> None:
    """Whatever made the first ones red has been overwritten."""
    found = commit.facts(tree, {"GITHUB_RUN_ATTEMPT": attempt})
    assert found == {"commit": git(tree, "rev-parse", "HEAD"), "dirty": "false", **said}


def test_a_variable_says_it_where_this_tree_lies_in_another_s_repository(tree: Path) -> None:
    assert commit.facts(tree, {"PLUMBLINE_COMMIT": SHA, "GITHUB_SHA": "d" * 40}) == {"commit": SHA, "dirty": "false"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_container_s_checkout_that_belongs_to_somebody_else_says_its_commit(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = git(tree, "rev-parse", "HEAD")
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    for path in (tree, *tree.rglob("*")):
        os.chown(path, 12345, 12345)
    assert commit.facts(tree, {}) == {"commit": sha, "dirty": "false"}
