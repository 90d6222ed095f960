"""`python -m ci attempts`: run the comparison, again where the infrastructure broke, and keep what each attempt left.

Exit code 4 alone is tried again, and only where nothing that was decided would be thrown away. Every testsuite of the last
attempt says with what each ended, as property `attempts`; what the others left lies in `attempts/1`, `attempts/2`, ... beside
it, and the gate looks at it. All attempts are one run (ci/run.py): what another run's attempts left there does not count.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ci import junit, run
from ci.expected import Expected
from ci.folder import ATTEMPTS, Results
from ci.junit import Suite, UnreadableResults
from ci.reasons import UNFINISHED
from validation.case import tree
from validation.case.errors import ExitCode, UsageError

NO_FILE = " without a file"
_PROPERTY = re.compile(rf"(\d{{1,3}})({NO_FILE})?")
Run = Callable[[Sequence[str]], int]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--up-to", type=int, default=2, metavar="N", help="attempts in all (default 2)")
    parser.add_argument("given", nargs=argparse.REMAINDER, metavar="-- run ...", help=f"what comes after {tree.VALIDATION}")


def main(options: argparse.Namespace) -> int:
    """The exit code of the last attempt."""
    given = options.given[1:] if options.given[:1] == ["--"] else options.given
    if options.up_to < 1 or (given[:1] != ["run"] and given[:2] != ["slurm", "run"]):
        raise UsageError(f"give --up-to 1 or more, and after -- the command: {tree.CI} attempts --up-to 2 -- run --layouts tp2")
    return attempt(given, _results(given), options.up_to)


def attempt(given: Sequence[str], folder: Path, most: int, comparison: Run | None = None) -> int:
    """Run it up to `most` times; the exit code of the last."""
    codes: list[int] = []
    kept: list[set[str]] = []
    while True:
        before = _files(folder)
        codes.append((comparison or _run)(given))
        left = sorted(path for path, changed in _files(folder).items() if before.get(path) != changed)
        if codes[-1] != ExitCode.INFRASTRUCTURE or len(codes) == most or not _may_be_repeated(left):
            break
        kept.append({path.name for path in left})
        _keep(left, folder / ATTEMPTS / str(len(codes)))
        sys.stdout.write(f"Attempt {len(codes)} of {most} ended with exit code {codes[-1]} (infrastructure): trying again\n")
        sys.stdout.flush()
    if kept:
        _tell(left, codes, kept)
    return codes[-1]


def _run(given: Sequence[str]) -> int:
    environment = {**os.environ, **run.handed_on()}
    code = subprocess.run([*tree.validation(), *given], env=environment, check=False).returncode
    # A code that is none of ours is the operating system's: the process was killed.
    return code if code in list(ExitCode) else int(ExitCode.INFRASTRUCTURE)


def _results(given: Sequence[str]) -> Path:
    """The folder that the command writes to."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--results", default="results")
    words = list(given)
    if words[:1] == ["slurm"] and "--" in words:
        del words[: words.index("--") + 1]  # those of the run stand behind it
    return Path(parser.parse_known_args(words)[0].results)


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.glob("*.xml")}


def _may_be_repeated(left: Sequence[Path]) -> bool:
    for path in left:
        try:
            reason = final(junit.read(path))
        except UnreadableResults as error:
            reason = str(error)
        if reason:
            sys.stdout.write(f"Not tried again: {path.name} {reason}\n")
            return False
    return True


def _keep(files: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        path.replace(folder / path.name)


def _tell(files: Sequence[Path], codes: Sequence[int], kept: Sequence[set[str]]) -> None:
    """Write into each testsuite of the last attempt what the attempts ended with."""
    for path in files:
        said = [f"{code}{'' if path.name in names else NO_FILE}" for code, names in zip(codes, kept, strict=False)]
        suite = junit.read(path)
        properties = {**suite.properties, "attempts": ", ".join([*said, str(codes[-1])])}
        junit.write(path, replace(suite, properties=properties))


def final(suite: Suite) -> str:
    """Why an attempt must not be repeated, for it decided something; empty where the infrastructure ended it.

    A testsuite whose run broke says so (`broken`), and nothing in it is decided.
    """
    failed = next((check for check in suite.checks if check.status == "fail"), None)
    if failed:
        return f"holds a verdict, {failed.name} fails: only an infrastructure error may be tried again"
    broken = suite.properties.get("broken") == str(int(ExitCode.INFRASTRUCTURE))
    undecided = next((check for check in suite.checks if check.status == "error" and check.message != UNFINISHED), None)
    if undecided and not broken:
        return f"holds an error that is not of the infrastructure, {undecided.name}: only such may be tried again"
    return ""


def reasons(expected: Expected, suite: Suite, results: Results) -> Iterator[str]:
    """Why the attempts that a testsuite tells of, or that are kept of it, are not as they must be."""
    told, kept = suite.properties.get("attempts", ""), results.kept(expected)
    ended = [_PROPERTY.fullmatch(part) for part in told.split(", ")] if told else []
    numbered = dict(enumerate(ended[:-1], start=1))
    if None in ended or (told and len(ended) < 2):
        yield f"says of its attempts {told!r}, which {tree.CI} attempts does not write"
        return
    for number, one in numbered.items():
        if one and int(one[1]) != ExitCode.INFRASTRUCTURE:
            final_code = f"attempt {number} ended with exit code {one[1]}, which is final"
            yield f"{final_code}: only 4, an infrastructure error, may be tried again"
        elif one and not one[2]:
            yield from _kept_as_it_must(number, expected, suite, results)
    if extra := [number for number in kept if number not in numbered and _is_of(suite, number, expected, results)]:
        yield f"attempt {extra[0]} is kept, and the testsuite does not tell of it"


def _is_of(last: Suite, number: int, expected: Expected, results: Results) -> bool:
    """Whether a kept attempt is one of this run. What another run left is not, and neither is a file that is none of ours."""
    try:
        return results.suite(expected.session, expected.file, number).run == last.run
    except UnreadableResults:
        return False


def _kept_as_it_must(number: int, expected: Expected, last: Suite, results: Results) -> Iterator[str]:
    try:
        suite = results.suite(expected.session, expected.file, number)
        reason = final(suite) if suite.run == last.run else "was not kept: what lies there is of another run"
    except UnreadableResults as error:
        reason = f"was not kept as it was ({error})"
    if reason:
        yield f"attempt {number} {reason}"
