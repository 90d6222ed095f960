"""Which megatron-core the ranks run: the one that is installed, or that of a checkout (`--megatron-path`).

Imports neither: what is said about it here is read from its files.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import re
import sys
from pathlib import Path

from validation.case import git
from validation.case.errors import UsageError

VARIABLE = "PLUMBLINE_MEGATRON_PATH"
"""In the environment, so that the fork server and the ranks know of it, too."""

_PART = re.compile(r"^(MAJOR|MINOR|PATCH|PRE_RELEASE)\s*=\s*['\"]?(\w*)", re.MULTILINE)


def choose(folder: Path | None) -> None:
    """Have the ranks that this process starts run the checkout in `folder`; None: what is installed. Raises UsageError."""
    os.environ.pop(VARIABLE, None)
    if folder is None:
        return
    folder = folder.resolve()
    core = folder / "megatron" / "core"
    if not (core / "__init__.py").is_file():
        raise UsageError(
            f"--megatron-path {folder}: there is no megatron/core/__init__.py in it; give the folder above megatron/core"
        )
    if version(core) is None:
        raise UsageError(f"--megatron-path {folder}: megatron/core/package_info.py does not say which version it is")
    os.environ[VARIABLE] = str(folder)


def chosen() -> Path | None:
    """The folder of the checkout, if one was chosen."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def install() -> None:
    """Have `megatron` mean the checkout in this process. Before the first import of anything of it.

    Not by the import path: a checkout has more folders at its root than this one (`tests` is one of them), and on the path
    an installed `megatron/__init__.py` would outweigh a checkout that has none.
    """
    folder = chosen()
    if folder is None:
        return
    spec = importlib.machinery.PathFinder.find_spec("megatron", [str(folder)])
    if spec is None:
        raise UsageError(f"--megatron-path {folder}: no package megatron can be imported from it")
    # A list where Python has put one that it computes anew whenever the import path changes.
    spec.submodule_search_locations = [str(folder / "megatron")]
    package = importlib.util.module_from_spec(spec)
    sys.modules["megatron"] = package
    if spec.loader is not None:
        spec.loader.exec_module(package)


def core() -> Path | None:
    """The folder of the megatron.core that ranks run, or None where there is none."""
    folder = chosen()
    if folder is not None:
        return folder / "megatron" / "core"
    return _installed_core()


@functools.cache
def _installed_core() -> Path | None:
    try:
        package = importlib.util.find_spec("megatron")
    except (ImportError, ValueError):
        return None
    # The parts of a dotted name are imported when it is looked for as a whole.
    places = package.submodule_search_locations if package else None
    spec = importlib.machinery.PathFinder.find_spec("megatron.core", places) if places else None
    return Path(spec.origin).parent if spec and spec.origin else None


@functools.cache
def version(core: Path) -> str | None:
    """The version that a folder megatron/core says it is, as megatron-core puts it together itself."""
    try:
        text = (core / "package_info.py").read_text(encoding="utf-8")
    except OSError:
        return None
    part = dict(_PART.findall(text))
    if not all(part.get(word, "").isdecimal() for word in ("MAJOR", "MINOR", "PATCH")):
        return None
    return f"{part['MAJOR']}.{part['MINOR']}.{part['PATCH']}{part.get('PRE_RELEASE', '')}"


def facts() -> dict[str, str]:
    """What reports say of a checkout: its folder's name, and its commit where it has one. Nothing of what is installed."""
    folder = chosen()
    if folder is None:
        return {}
    commit = _commit(folder)
    return {"megatron-path": folder.name, **({"megatron-commit": commit} if commit else {})}


def _commit(folder: Path) -> str:
    """The commit, with -dirty where files of its repository differ from it; empty where megatron/core is none of git's."""
    root = next((place for place in (folder, *folder.parents) if (place / ".git").exists()), None)
    if root is None or not git.answer(root, "ls-files", "--", str(folder / "megatron" / "core" / "__init__.py")):
        return ""
    return git.answer(root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or ""
