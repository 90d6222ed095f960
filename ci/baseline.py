"""`python -m ci baseline`: keep green results, for drift to compare later ones with.

That is a deliberate act: what the gate refuses is not kept, and where the results have drifted from those that are kept
already, somebody must say why (`--accept`); the words are kept with them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from ci import gate, junit
from ci.drift import add_rule, drift, named
from ci.escape import plain
from ci.folder import Results
from validation.case import writing
from validation.case.errors import ExitCode, UsageError
from validation.case.plural import many

ABOUT = "baseline.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command: those of the gate, and where to."""
    gate.add_judging_options(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder of the baseline, which is written anew")
    add_rule(parser)


def main(options: argparse.Namespace) -> int:
    """0 kept, 1 refused."""
    output, judged = Path(options.output), gate.judge(options)
    if not judged.green:
        where, why = judged.reasons[0]
        return _refused(f"the gate is red ({many(len(judged.reasons), 'reason')}, the first: {where}: {why})")
    if output.exists() and not (output / ABOUT).is_file():
        raise UsageError(f"--output {output}: is no baseline, and nothing of it is overwritten; name another folder")
    accepted = options.accept.strip()
    wanted = named(options.manifest)
    moved = drift(output, Path(options.results), options.factor, wanted).reasons if output.exists() else []
    if moved and not accepted:
        return _refused(
            f"the results have drifted ({many(len(moved), 'reason')}, the first: {moved[0]}); --accept WHY keeps them"
        )
    given = Results(Path(options.results)).of(expected.session for expected, _ in judged.suites)
    _write(Results(output.with_name(f".{output.name}.part"), given.by_session), output, judged, accepted if moved else "")
    sys.stdout.write(f"{output}: {judged.counted}\n")
    return int(ExitCode.PASS)


def _refused(why: str) -> int:
    sys.stdout.write(f"Nothing is kept: {plain(why, 1000)}\n")
    return int(ExitCode.FAIL)


def _write(results: Results, output: Path, judged: gate.Judgement, accepted: str) -> None:
    """The whole new baseline first, then in the old one's place. Nothing is left of one that the disk has no room for."""
    shutil.rmtree(results.folder, ignore_errors=True)
    commit = judged.suites[0][1].properties["commit"]
    try:
        for expected, suite in judged.suites:
            junit.write(results.path(expected.session, expected.file), suite)
        writing.write(results.folder / ABOUT, json.dumps({"commit": commit, "accepted": accepted}, indent=1) + "\n")
    except OSError:
        shutil.rmtree(results.folder, ignore_errors=True)
        raise
    shutil.rmtree(output, ignore_errors=True)
    results.folder.rename(output)
