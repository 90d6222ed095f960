"""`python -m ci manifest`: every check that the sessions of an event, or those that are named, must report.

The checks themselves are asked (`python -m validation run --manifest`), which takes a second a session and no torch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from ci import commit
from ci.expected import Expected, Manifest, UnreadableManifest, load, save
from ci.requirements import of_others
from ci.table import EVENTS, Row, rows
from validation.case import writing
from validation.case.errors import ExitCode, PlumblineError, UsageError
from validation.case.plural import many

ROOT = Path(__file__).parents[1]
_SUCH_AS = "give NAME=VERSION, such as megatron-core=0.15.3"


class CollectionFailed(PlumblineError):
    """The checks of a session could not be listed."""

    exit_code = ExitCode.ENVIRONMENT


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--session", action="append", dest="sessions", metavar="S", help="a session; may be given again")
    chosen.add_argument("--event", choices=EVENTS, help="every session that this event runs")
    parser.add_argument("--output", default="manifest.json", metavar="M", help="where it goes (default manifest.json)")
    parser.add_argument("--no-self-test", action="store_true", help="of sessions that do not test themselves, as in CI they do")
    parser.add_argument("--minimum", action="append", default=[], metavar="NAME=VERSION", help="not what requirements/ says")


def main(options: argparse.Namespace) -> int:
    """Write the manifest."""
    writing.check_file(Path(options.output), "--output")
    minimum = _minimum(options.minimum)
    chosen = _chosen(options.sessions, options.event)
    with ThreadPoolExecutor(max_workers=2) as pool:
        listed = list(pool.map(lambda row: _listed(row, not options.no_self_test), chosen))
    told = commit.facts()
    suites = [_with(minimum, suite) for found in listed for suite in found.suites]
    self_tests = {session: file for found in listed for session, file in found.self_tests.items()}
    coverage = {row.session: row.coverage for row in chosen if row.coverage is not None}
    save(Path(options.output), Manifest(tuple(suites), told.get("commit", ""), told["dirty"], self_tests, coverage))
    checks = sum(len(suite.checks) for suite in suites)
    sys.stdout.write(
        f"{options.output}: {many(len(chosen), 'session')}, {many(len(suites), 'testsuite')}, {many(checks, 'check')}\n"
    )
    return int(ExitCode.PASS)


def _chosen(sessions: Sequence[str] | None, event: str | None) -> list[Row]:
    """The rows of the table. Raises UsageError for a session that is none, and for a choice that chooses nothing."""
    table = {row.session: row for row in rows()}
    names = list(sessions or [row.session for row in table.values() if event in row.when])
    if unknown := [name for name in names if name not in table]:
        raise UsageError(f"--session {unknown[0]}: unknown; ci/matrix.yaml has {', '.join(table)}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--session {twice[0]}: given twice; a session is run once")
    if not names:
        raise UsageError(f"--event {event}: no session of ci/matrix.yaml runs then, and a gate with nothing to ask for is none")
    return [table[name] for name in names]


def _minimum(given: Sequence[str]) -> Mapping[str, str]:
    """Library -> requirement. Raises UsageError."""
    pairs = [text.partition("=") for text in given]
    if wrong := [name for name, equals, version in pairs if not (name and equals and version)]:
        raise UsageError(f"--minimum {wrong[0]}: {_SUCH_AS}")
    return {canonicalize_name(name): str(_at_least(name, version)) for name, _, version in pairs}


def _at_least(name: str, version: str) -> Requirement:
    try:
        return Requirement(f"{canonicalize_name(name)}>={Version(version)}")
    except ValueError:  # packaging's own are
        raise UsageError(f"--minimum {name}: {version} is no version of a library; {_SUCH_AS}") from None


def _with(minimum: Mapping[str, str], suite: Expected) -> Expected:
    """The testsuite with these requirements, library -> requirement, in the place of those of the same libraries."""
    return replace(suite, requires=(*of_others(suite.requires, minimum), *minimum.values()))


def _listed(row: Row, self_test: bool) -> Manifest:
    """The manifest of one session."""
    found = _collected(row, self_test)
    file = found.self_tests.get("")
    if self_test and not any(suite.file == file and suite.checks for suite in found.suites):
        raise CollectionFailed(f"the checks of {row.session} lack its self-test, and it is on; --no-self-test asks for none")
    suites = tuple(replace(suite, session=row.session) for suite in found.suites)
    return Manifest(suites, self_tests={row.session: file} if file else {})


def _collected(row: Row, self_test: bool) -> Manifest:
    with tempfile.TemporaryDirectory(prefix="plumbline-manifest-") as folder:
        path = Path(folder) / "manifest.json"
        words = [*row.arguments(), "--self-test" if self_test else "--no-self-test", "--manifest", str(path)]
        done = subprocess.run(
            [sys.executable, "-m", "validation", *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
        try:
            return load(path)
        except UnreadableManifest:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise CollectionFailed(
                f"the checks of {row.session} cannot be listed: {said[-1] if said else 'nothing said'}"
            ) from None
