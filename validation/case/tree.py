"""What this code is, a checkout or the installed package, and what its commands are called there. No torch."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from validation.case import git
from validation.case.errors import UsageError

ROOT = Path(__file__).parents[2]
"""The folder that holds `validation`, `ci` and `requirements`."""
BUILT = ROOT.parent / "build.json"
"""What the installed package was built from (hatch_build.py)."""
INSTALLED = ROOT.name == "_root" and BUILT.is_file()
STARTED = "PLUMBLINE_COMMANDS"
"""Set by the commands of the package (plumbline/commands.py) for the process and its children: `script` or `module`."""
_AS_COMMANDS = INSTALLED or os.environ.get(STARTED) == "script"

VALIDATION = "plumbline" if _AS_COMMANDS else "python -m validation"
"""What a user calls the commands of `validation` here."""
CI = "plumbline-ci" if _AS_COMMANDS else "python -m ci"
"""What a user calls the commands of `ci` here."""


def validation() -> tuple[str, ...]:
    """What starts a process with the commands of `validation`; their words follow."""
    return (sys.executable, "-m", "plumbline" if os.environ.get(STARTED) else "validation")


def requirements(name: str) -> str:
    """The requirements file of this name, as `pip install -r` finds it from where a user is."""
    return str(ROOT / "requirements" / f"{name}.txt") if INSTALLED else f"requirements/{name}.txt"


def needs_a_checkout(what: str) -> None:
    """Raise UsageError for something that reads or writes `docs`, which the installed package has not."""
    if INSTALLED:
        raise UsageError(f"{what}: works on the pages in docs/, which the installed package has not; run it in a checkout")


@cache
def built() -> dict[str, Any]:
    """What the installed package was built from: `version`, `commit` and `dirty` as in results, `files` with their digests."""
    found: dict[str, Any] = json.loads(BUILT.read_text(encoding="utf-8"))
    return found


def version() -> str:
    """One line: the version, and the commit that this is."""
    if INSTALLED:
        changed = {"true": ", with changed files", "unknown": ", perhaps with changed files"}.get(built()["dirty"], "")
        return f"plumbline {built()['version']} (commit {built()['commit'] or 'unknown'}{changed})"
    commit = git.answer(ROOT, "rev-parse", "HEAD")
    if commit is None:
        return "plumbline, version unknown (a copy of the repository without git)"
    described = git.answer(ROOT, "describe", "--tags", "--always", "--match=*[0-9]*") or commit
    changed = ", with changed files" if git.answer(ROOT, "status", "--porcelain") else ""
    return f"plumbline {described.removeprefix('v')} (a checkout of commit {commit}{changed})"
