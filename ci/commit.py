"""The commit that this tree is at: results say which one made them, the manifest which one they are wanted of.

What is checked out counts. The CI service is asked where there is no git (ci/service.py). On pull_request events of GitHub it
names the merge of the pull request into its base, and so does actions/checkout: every job of one run has the same.
An installed package says which commit it was built from: repository and CI service around it are a team's own.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ci import installed, service
from validation.case import bytecode, git, tree

ROOT = tree.ROOT
VARIABLE = "PLUMBLINE_COMMIT"
"""Says the commit where neither git nor the CI service can, or where this tree lies in another one's repository."""
CODE = ("ci", "validation", "plumbline", "requirements", "noxfile.py")
"""What makes results. Of what else a job leaves in the tree only a few files can change them (`_changes_results`)."""
_CACHES = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache")
_OF_PYTEST = (
    "conftest.py",
    "pytest.ini",
    ".pytest.ini",
    "pytest.toml",
    ".pytest.toml",
    "tox.ini",
    "setup.cfg",
    "pyproject.toml",
)
_STARTUP = ("sitecustomize.py", "usercustomize.py")
_LINK = "120000"
"""The mode of a symbolic link in a commit."""
_SUFFIXES = tuple(importlib.machinery.all_suffixes())


def facts(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """As properties of a testsuite: `commit`, where it is known, and `dirty`: true, false, or unknown without git.

    `workflow_attempt` where it is not the CI service's first.
    """
    told = service.told(environment)
    if tree.INSTALLED and root == ROOT:
        return {**_of_a_package(root.parent, tree.built(), environment.get(VARIABLE, "")), **_again(told.attempt)}
    found = environment.get(VARIABLE) or git.answer(root, "rev-parse", "HEAD") or told.commit
    changed = _changed(root)
    dirty = "unknown" if changed is None else str(any(_changes_results(root, path) for path in changed)).lower()
    return {**({"commit": found} if found else {}), "dirty": dirty, **_again(told.attempt)}


def _of_a_package(folder: Path, built: Mapping[str, Any], named: str) -> dict[str, str]:
    """The same of an installed package in this folder; `built` is what its build has written down.

    `named` is a commit that somebody says it is. What the files were, and whether they are so still, counts all the same.
    """
    commit = named or built["commit"]
    sound = installed.as_built(folder, built["files"]) and not any(_compiled_blindly(folder / name) for name in built["files"])
    return {**({"commit": commit} if commit else {}), "dirty": built["dirty"] if sound else "true"}


def _changed(root: Path) -> list[str] | None:
    """Every path below the root that is not as in the commit, ignored ones included; None where git cannot say it.

    A folder that is ignored as a whole is named and not looked into.
    """
    told = git.answer(
        root, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--ignored=matching", "--", "."
    )
    prefix = git.answer(root, "rev-parse", "--show-prefix")
    otherwise = _otherwise(root)
    if told is None or prefix is None or otherwise is None:
        return None
    return [*(entry[3:].removeprefix(prefix) for entry in told.split("\0") if entry), *otherwise]


def _otherwise(root: Path) -> list[str] | None:
    """Files whose bytes are not the commit's, whatever git's settings, filters and flags say of them.

    And those of which Python has a compiled form that it takes without a look at the source.
    """
    listed = git.answer(root, "ls-tree", "-r", "-z", "HEAD")
    if listed is None:
        return None
    entries = [entry.partition("\t") for entry in listed.split("\0") if entry]
    some = [(path, about.split()) for about, _, path in entries if _must_be(root, path)]
    return [path for path, about in some if not _is(root / path, *about) or _compiled_blindly(root / path)]


def _must_be(root: Path, path: str) -> bool:
    """Whether a file must have the commit's bytes. One outside of our code may be missing, as in a sparse checkout."""
    if PurePosixPath(path).parts[0] in CODE:
        return True
    return os.path.lexists(root / path) and _changes_results(root, path)


def _is(path: Path, mode: str, kind: str, digest: str) -> bool:
    """Whether a file or a link has the content that git has under this digest; of a submodule git says enough itself."""
    if kind != "blob":
        return True
    if path.is_symlink() != (mode == _LINK):
        return False
    try:
        content = os.fsencode(path.readlink()) if mode == _LINK else path.read_bytes()
    except OSError:
        return False
    made = hashlib.new("sha1" if len(digest) == 40 else "sha256", b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return made.hexdigest() == digest


def _compiled_blindly(path: Path) -> bool:
    """Whether the compiled form is one that is never held against the source (PEP 552)."""
    return path.suffix == ".py" and any(map(_unchecked, bytecode.places(path)))


def _unchecked(compiled: Path) -> bool:
    try:
        with open(compiled, "rb") as file:
            flags = int.from_bytes(file.read(8)[4:], "little")
    except OSError:
        return False
    return flags & 0b11 == 0b01


def _changes_results(root: Path, path: str) -> bool:
    """Whether a file, or a folder with / at its end, can change what a check says. The path is relative to the root."""
    first, *rest = PurePosixPath(path).parts or ("",)
    if not first:
        return True  # the root itself, ignored by the repository around it
    if any(part in _CACHES for part in (first, *rest)):
        return False
    if first in CODE or PurePosixPath(path).name in (*_OF_PYTEST, *_STARTUP):
        return True
    # A folder needs no __init__.py for what lies in it to be imported, as an own layer spec is.
    importable = all(part.isidentifier() for part in (first, *rest[:-1]))
    return _is_imported(root, first) or (bool(rest) and importable and path.endswith(_SUFFIXES))


def _is_imported(root: Path, name: str) -> bool:
    """Whether Python can import it from the root, before what is installed. `megatron` needs no __init__.py for that."""
    place = root / name
    if not place.is_dir():
        return name.endswith(_SUFFIXES)
    return name == "megatron" or any((place / f"__init__{suffix}").exists() for suffix in _SUFFIXES)


def _again(attempt: str) -> dict[str, str]:
    """Somebody had the service run the jobs again, which overwrites what the jobs before have left."""
    return {} if attempt in ("", "1") else {"workflow_attempt": attempt}
