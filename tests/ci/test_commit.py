"""Results say the commit that is checked out, and whether the files are those of it."""

from __future__ import annotations

import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ci import commit
from validation.case import git as asking

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


LEFT = (
    *("results/a.xml", "results/before/a.xml", "results/conftest.py", ".nox/cpu/lib/conftest.py", ".nox/pytest.ini"),
    *("tests/workflows/node_modules/a/setup.cfg", "manifest.json", "report/index.html", "ci/__pycache__/gate.pyc"),
    *("__pycache__/noxfile.pyc", "README.md", "notes/__init__.txt", "data.csv", "notes/no-package/spec.py"),
)
IGNORED = "results/\n.nox/\nnode_modules/\nmanifest.json\n__pycache__/\n"


def test_what_a_job_puts_beside_the_code_is_none(tree: Path) -> None:
    """A virtual environment and node's packages have files of every name."""
    (tree / ".git" / "info" / "exclude").write_text(IGNORED)
    for name in LEFT:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("a")
    assert commit.facts(tree, {})["dirty"] == "false"


@pytest.mark.parametrize("ignored", [False, True], ids=["untracked", "ignored"])
@pytest.mark.parametrize(
    "name",
    [
        *("pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg", "pyproject.toml"),
        *("conftest.py", "tests/conftest.py", "tests/checks/conftest.py", "sitecustomize.py", "usercustomize.py"),
        *("torch.py", "yaml/__init__.py", "yaml/__init__.pyc", "megatron/core/__init__.py", "dataclasses.pyc"),
        *("validation/checks/test_mine.py", "validation/results/a.py", "ci/notes.txt", "noxfile.py", "my spec.py", "schön.py"),
    ],
)
def test_a_file_that_can_change_a_check_is_said_wherever_it_is(tree: Path, name: str, ignored: bool) -> None:
    """A line in .gitignore, or in .git/info/exclude, hides nothing."""
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text("a")
    (tree / ".git" / "info" / "exclude").write_text(f"{name}\n" if ignored else "")
    assert commit.facts(tree, {})["dirty"] == "true"


def test_a_folder_that_is_ignored_as_a_whole_is_said(tree: Path) -> None:
    for name, file in (("torch", "__init__.py"), ("validation", "__init__.py"), ("megatron", "core/__init__.py")):
        (tree / name / file).parent.mkdir(parents=True)
        (tree / name / file).write_text("a")
        (tree / ".git" / "info" / "exclude").write_text(f"{name}/\n")
        assert commit.facts(tree, {})["dirty"] == "true"
        shutil.rmtree(tree / name)


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_changed_file_that_git_was_told_to_overlook_is_said(tree: Path, flag: str) -> None:
    git(tree, "update-index", flag, "ci/gate.py")
    (tree / "ci" / "gate.py").write_text("raise\n")
    assert commit.facts(tree, {})["dirty"] == "true"
    (tree / "ci" / "gate.py").unlink()
    assert commit.facts(tree, {})["dirty"] == "true"


def committed(root: Path, *names: str) -> None:
    """Files with a line of code, in a commit."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("pass\n")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "b")


@pytest.mark.parametrize("within", ["", "plumbline"])
@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
@pytest.mark.parametrize("name", ["pytest.ini", "schön.py", "tests/conftest.py"])
def test_a_file_beside_the_code_that_git_was_told_to_overlook_is_said(tree: Path, within: str, flag: str, name: str) -> None:
    """If it is there: a sparse checkout leaves out what is none of ours. Data may be anything."""
    root = tree / within
    committed(root, "a.txt", "ci/a.txt", name, "tests/z.txt")
    git(root, "update-index", flag, name, "a.txt")
    (root / "a.txt").write_text("raise\n")
    assert commit.facts(root, {})["dirty"] == "false"
    (root / name).unlink()
    assert commit.facts(root, {})["dirty"] == "false"
    (root / name).write_text("raise\n")
    assert commit.facts(root, {})["dirty"] == "true"


def test_a_path_is_that_from_the_root_of_this_tree(tree: Path) -> None:
    """Whatever folder of another repository it lies in, and whatever characters are in it."""
    committed(tree / "vendored", "ci/a\tb.py")
    root = tree / "vendored"
    assert commit.facts(root, {})["dirty"] == "false"
    git(root, "update-index", "--assume-unchanged", "ci/a\tb.py")
    (root / "ci" / "a\tb.py").write_text("fail\n")
    assert commit.facts(root, {})["dirty"] == "true"
    (root / "ci" / "a\tb.py").write_text("pass\n")
    assert commit.facts(root, {})["dirty"] == "false"
    (root / "ci" / "notes.txt").write_text("a")
    assert commit.facts(tree / "vendored", {})["dirty"] == "true"


@pytest.mark.parametrize("unanswered", [("status",), ("rev-parse", "--show-prefix"), ("ls-tree",)], ids=lambda words: words[-1])
def test_what_git_does_not_answer_is_unknown(tree: Path, monkeypatch: pytest.MonkeyPatch, unanswered: tuple[str, ...]) -> None:
    """Each question by itself."""
    answer = asking.answer

    def silent(root: Path, *words: str) -> str | None:
        return None if words[: len(unanswered)] == unanswered else answer(root, *words)

    monkeypatch.setattr(asking, "answer", silent)
    assert commit.facts(tree, {}) == {"commit": git(tree, "rev-parse", "HEAD"), "dirty": "unknown"}


def test_bytes_are_compared_in_a_repository_of_longer_digests_too(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--object-format=sha256")
    committed(tmp_path, "ci/gate.py")
    assert commit.facts(tmp_path, {})["dirty"] == "false"
    (tmp_path / ".git" / "info" / "attributes").write_text("*.py filter=same\n")
    git(tmp_path, "config", "filter.same.clean", "git show HEAD:%f")
    (tmp_path / "ci" / "gate.py").write_text("fail\n")
    assert commit.facts(tmp_path, {})["dirty"] == "true"


@pytest.mark.parametrize("within", ["", "plumbline"])
def test_of_many_files_the_one_that_is_overlooked_is_said(tree: Path, within: str) -> None:
    """Also where this tree is a folder of a team's repository."""
    root = tree / within
    for name in ("ci/a.py", "ci/b.py", "README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("pass\n")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "-m", "b")
    git(root, "update-index", "--skip-worktree", "README.md")
    assert commit.facts(root, {})["dirty"] == "false"
    git(root, "update-index", "--assume-unchanged", "ci/b.py")
    (root / "ci" / "b.py").write_text("raise\n")
    assert commit.facts(root, {})["dirty"] == "true"


def test_code_that_was_moved_away_is_said(tree: Path) -> None:
    """Git would tell it as one file with another name, which alone changes nothing."""
    (tree / "ci" / "table.txt").write_text("what a module reads\n" * 9)
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "-m", "b")
    git(tree, "mv", "ci/table.txt", "notes.txt")
    assert commit.facts(tree, {})["dirty"] == "true"


def test_settings_that_were_moved_away_are_said(tree: Path) -> None:
    """They hold no more, under whatever name they lie now."""
    committed(tree, "pytest.ini")
    git(tree, "mv", "pytest.ini", "notes.txt")
    assert commit.facts(tree, {})["dirty"] == "true"


def test_neither_settings_nor_variables_of_git_hide_a_file(tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A repository elsewhere, or settings that show no untracked file, do not stand in for this one."""
    clean = tmp_path / "clean"
    clean.mkdir()
    git(clean, "init", "--quiet")
    git(clean, "commit", "--quiet", "--allow-empty", "-m", "b")
    git(tree, "config", "status.showUntrackedFiles", "no")
    (tree / "conftest.py").write_text("a")
    monkeypatch.setenv("GIT_DIR", str(clean / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(clean))
    found = commit.facts(tree, {})
    assert found["dirty"] == "true"
    monkeypatch.undo()
    assert found["commit"] == git(tree, "rev-parse", "HEAD")


@pytest.mark.parametrize("name", ["ci/gate.py", "tests/conftest.py", "torch.py"])
def test_the_bytes_count_and_not_what_git_is_told_of_them(tree: Path, tmp_path: Path, name: str) -> None:
    """A filter that gives git the commit's bytes, and another folder as the work tree.

    The changed file is as long as the commit's: git runs no filter on one of another length, and calls it changed.
    """
    committed(tree, "tests/conftest.py", "torch.py")
    (tree / name).write_text("fail\n")
    (tree / ".git" / "info" / "attributes").write_text("*.py filter=same\n")
    git(tree, "config", "filter.same.clean", "git show HEAD:%f")
    assert git(tree, "status", "--porcelain") == ""
    assert commit.facts(tree, {})["dirty"] == "true"
    git(tree, "config", "core.worktree", str(tmp_path))
    assert commit.facts(tree, {})["dirty"] != "false"


def test_a_compiled_file_that_is_never_held_against_its_source_is_said(tree: Path) -> None:
    """Python would run it whatever the source says; one with a time or a checked hash is looked at."""
    source = tree / "ci" / "gate.py"
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    assert commit.facts(tree, {})["dirty"] == "false"
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert commit.facts(tree, {})["dirty"] == "true"


@pytest.mark.parametrize("kept", [False, True])
def test_one_of_another_place_is_said_too(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """Beside the source, before bytecode is kept elsewhere, and where it is kept then."""
    where = str(tmp_path / "kept")
    monkeypatch.setattr(sys, "pycache_prefix", where if kept else None)
    py_compile.compile(str(tree / "ci" / "gate.py"), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    monkeypatch.setattr(sys, "pycache_prefix", where)
    assert commit.facts(tree, {})["dirty"] == "true"


def test_links_submodules_and_data_are_those_of_the_commit(tree: Path) -> None:
    """A link is what it points to by name, and a submodule has a commit; data has no compiled form."""
    (tree / "ci" / "link.py").symlink_to("gate.py")
    (tree / "ci" / "data.txt").write_text("a\n")
    git(tree, "init", "--quiet", "ci/sub")
    git(tree / "ci" / "sub", "commit", "--quiet", "--allow-empty", "-m", "b")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "-m", "b")
    assert "160000 commit" in git(tree, "ls-tree", "-r", "HEAD")
    assert commit.facts(tree, {})["dirty"] == "false"
    link = tree / "ci" / "link.py"
    git(tree, "update-index", "--assume-unchanged", "ci/link.py", "ci/gate.py")
    link.unlink()
    link.symlink_to("data.txt")
    assert commit.facts(tree, {})["dirty"] == "true"
    link.unlink()
    link.write_text("gate.py")
    assert commit.facts(tree, {})["dirty"] == "true", "a file with the text of the link"
    link.unlink()
    link.symlink_to("gate.py")
    assert commit.facts(tree, {})["dirty"] == "false"
    (tree / "ci" / "gate.py").rename(tree / "same")
    (tree / "ci" / "gate.py").symlink_to("../same")
    (tree / ".git" / "info" / "exclude").write_text("same\n")
    assert commit.facts(tree, {})["dirty"] == "true", "a link to a file with the same bytes"


def test_a_layer_spec_in_a_folder_without_an_init_is_said(tree: Path) -> None:
    """Python imports it from there."""
    (tree / "myspecs").mkdir()
    (tree / "myspecs" / "spec.py").write_text("a")
    assert commit.facts(tree, {})["dirty"] == "true"


def test_a_tree_within_another_repository_looks_at_its_own_files(tree: Path) -> None:
    """Plumbline may be a folder of a team's repository: its own files count, and their pytest.ini does not."""
    inner = tree / "plumbline"
    (inner / "ci").mkdir(parents=True)
    (inner / "ci" / "gate.py").write_text("pass\n")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "-m", "b")
    (tree / "pytest.ini").write_text("a")
    assert commit.facts(inner, {})["dirty"] == "false"
    (inner / "ci" / "gate.py").write_text("raise\n")
    assert commit.facts(inner, {})["dirty"] == "true"
    git(tree, "rm", "-r", "--quiet", "--cached", "plumbline")
    (tree / ".git" / "info" / "exclude").write_text("plumbline/\n")
    git(tree, "commit", "--quiet", "-m", "c")
    assert commit.facts(inner, {})["dirty"] == "true", "a tree that is ignored as a whole is of no commit"


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
