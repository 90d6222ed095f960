"""`python -m ci tagged`: whether a tag, the changelog and what was built from it say the same version.

A release cannot be taken back: a package index takes each version once.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from validation.case.errors import ExitCode, UsageError
from validation.case.strangers import one_line, shown

_TAG = re.compile("v([0-9]{1,9}[.][0-9]{1,9}[.][0-9]{1,9}((a|b|rc)[0-9]{1,9})?)")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--tag", required=True, metavar="v1.2.3", help="the tag that is released")
    parser.add_argument("--root", default=".", metavar="DIR", help="the checkout of the tag (default: this folder)")
    parser.add_argument("--built", metavar="DIR", help="the folder of wheel and sdist, once they are built")


def main(options: argparse.Namespace) -> int:
    """0 if everything says the tag's version, 1 with a sentence for each that does not. Raises UsageError."""
    version = _version(options.tag)
    reasons = [*_changelog(_read(Path(options.root) / "CHANGELOG.md"), version)]
    if options.built is not None:
        reasons += _built(Path(options.built), _name(Path(options.root) / "pyproject.toml"), version)
    sys.stdout.write("".join(f"red: {reason}\n" for reason in reasons) or f"{options.tag}: all say {version}\n")
    return int(ExitCode.FAIL if reasons else ExitCode.PASS)


def _version(tag: str) -> Version:
    """Of a tag that is written as the version itself is, behind a v. Raises UsageError."""
    found = _TAG.fullmatch(tag)
    version = Version(found[1]) if found else None
    if version is None or tag != f"v{version}":
        raise UsageError(f"tag {shown(tag)} is no release: write v1.2.3, or v1.2.3rc1 for a release candidate")
    return version


def _read(path: Path) -> str:
    """The text of a file of the checkout. Raises UsageError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"{path}: {why}; --root must be a checkout of Plumbline") from error


def _name(path: Path) -> str:
    """What the package is called. Raises UsageError."""
    try:
        return canonicalize_name(tomllib.loads(_read(path))["project"]["name"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UsageError(f"{path} names no project; --root must be a checkout of Plumbline") from error


def _changelog(text: str, version: Version) -> Iterator[str]:
    """Why the changelog is not this version's: its first section behind [Unreleased] must be, with a date and a line."""
    sections = re.split("^## ", text, flags=re.MULTILINE)[1:]
    released = [section for section in sections if not section.startswith("[Unreleased]")]
    head, _, body = (released or [""])[0].partition("\n")
    if not re.fullmatch(rf"\[{re.escape(str(version))}\] - [0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}", head):
        yield (
            f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD' directly below [Unreleased]: "
            "put that heading above what is released"
        )
    elif not re.search("^- ", body, re.MULTILINE):
        yield f"section [{version}] of CHANGELOG.md says nothing: write down what users notice"


def _built(folder: Path, name: str, version: Version) -> Iterator[str]:
    """Why the folder is not one wheel and one sdist of this version."""
    files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    for file in files:
        if _parsed(file) != (name, version):
            yield f"{one_line(file)} is not {name} {version}: build from a clean checkout of the tag, with all tags fetched"
    for kind, ending in (("wheel", ".whl"), ("sdist", ".tar.gz")):
        if not any(file.endswith(ending) for file in files):
            yield f"{folder} has no {kind}: build it with python -m build"


def _parsed(file: str) -> tuple[str, Version] | None:
    """Name and version in a file's name; None if it is no wheel's and no sdist's."""
    try:
        return parse_wheel_filename(file)[:2] if file.endswith(".whl") else parse_sdist_filename(file)
    except ValueError:  # packaging's own errors are
        return None
