"""`python -m ci page`: the file."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from ci import gate
from ci.drift import add_base, told
from ci.expected import Manifest, UnreadableManifest, load
from ci.junit import Suite
from ci.links import links
from ci.page.document import document
from ci.page.history import history
from ci.page.read import suites
from ci.page.run import Run, by_manifest, drifted, judged
from ci.reproduction import sources
from validation.case import exhausted, tree, writing
from validation.case.errors import ExitCode, UsageError
from validation.case.plural import many


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    gate.add_judging_options(parser, without_manifest="without it the verdict is that of the files which are there")
    add_base(parser)
    parser.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE", help="default report.html")
    parser.add_argument(
        "--history",
        nargs="+",
        default=[],
        metavar="DIR",
        help="results of earlier runs, a folder each: shows trends",
    )
    parser.add_argument("--title", default="Plumbline", help="what the page is called (default Plumbline)")


def main(options: argparse.Namespace) -> int:
    """Write the page. The exit code says whether it was written: whether the run may be merged, the gate says."""
    run = drifted(_gated(options) if options.manifest else judged(*_read(Path(options.results))), told(options))
    past = history(run.cases, [Path(folder) for folder in options.history])
    run = replace(run, links=links(os.environ), sources=sources(), history=past)
    _write(options.output, document(run, options.title))
    counted = f"{many(sum(run.counts.values()), 'check', spec=',')} in {many(len(run.cases), 'case')}"
    sys.stdout.write(f"{options.output}: {run.verdict}, {counted}\n")
    return int(ExitCode.PASS)


def _gated(options: argparse.Namespace) -> Run:
    """The run as the gate sees it."""
    found = gate.judge(options)
    try:
        manifest = load(Path(options.manifest))
    except UnreadableManifest:
        manifest = Manifest(())
    return by_manifest(manifest, found)


def _read(folder: Path) -> tuple[list[Suite], list[str]]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; --results names the one with a run's JUnit files")
    found, unreadable = suites(folder)
    if not found and not unreadable:
        raise UsageError(f"no JUnit file (*.xml) in {folder}; `{tree.VALIDATION} run --results {folder}` writes them")
    return found, unreadable


def _write(path: Path, text: str) -> None:
    """In one step: who has the old page open finds a whole one when it is loaded again."""
    try:
        with exhausted.in_a_sentence(f"--output {path}"):
            writing.write(path, text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; --output names a file") from error
