"""The front of the pipeline: one command a module, `python -m ci COMMAND`. Imports no torch.

The module `ci.COMMAND` has `add_options(parser)` and `main(options) -> int`, the exit code. It is imported when its command
is asked for: planning a matrix needs PyYAML and nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from validation.case import document, exhausted, interpreter, packages, tree
from validation.case.empty import refuse_empty
from validation.case.errors import PlumblineError
from validation.case.parsing import Parser, add_version, described

COMMANDS = {
    "matrix": "say which sessions run for an event, where, and why: JSON for a workflow's matrix",
    "manifest": "write down every check that a set of sessions must report",
    "gate": "compare results with the manifest: may this be merged?",
    "drift": "compare results with the base branch's, ratio by ratio",
    "baseline": "keep green results, for drift to compare later ones with",
    "summary": "say in Markdown what came of it, for GitHub's step summary, with annotations",
    "latest": "find the last green run of a workflow on the base branch that still has a baseline, for drift",
    "permit": "see that an environment which a job has waited for asks for a person",
    "page": "make one HTML file of it: heat maps, every check, how to reproduce; needs no network",
    "comment": "write one comment into a pull request that says what came of its run, and keep it current",
    "sessions": "write docs/matrix.md, the table of all sessions",
    "tagged": "see that a tag, the changelog and what was built from it say the same version",
    "ghes": "write .github/workflows/parity-ghes.yml, the workflow for GitHub Enterprise Server",
    "attempts": f"run {tree.VALIDATION}, again where the infrastructure broke, and keep what each attempt left",
}

_TEXTS = ("manifest", "results", "output", "base", "commit", "megatron_commit", "history", "tag", "root", "built")
"""Options of several commands that an empty string is no value of."""
_CODES = "exit codes: 0 green or done, 1 red, 2 wrong usage, 3 something is missing here, 4 the run broke (attempts only)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (validation.case.errors.ExitCode)."""
    interpreter.settle()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["gate"] and document.asked_for(given):
        return document.of("gate", lambda said: _main(given, said))
    return _main(given, {})


def _main(given: Sequence[str], said: document.Document) -> int:
    """Run the command; the gate adds to its document, and `error` is the sentence with which it ends before it judges."""
    try:
        with exhausted.in_a_sentence(), packages.asked_for(packages.OF_THE_PIPELINE, "ci"):
            options = _parser(given[0] if given else "").parse_args(given)
            options.document = said
            refuse_empty(options, [name for name in _TEXTS if name in options])
            code: int = options.main(options)
    except PlumblineError as error:
        said["error"] = str(error)
        sys.stderr.write(f"error: {error}\n")
        return int(error.exit_code)
    return code


def _parser(command: str) -> argparse.ArgumentParser:
    parser = Parser(prog=tree.CI, description="What runs where, and may this be merged?", epilog=_CODES)
    add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, does in COMMANDS.items():
        found = commands.add_parser(name, help=does, description=described(does), epilog=_CODES)
        if name == command:
            module = importlib.import_module(f"ci.{name}")
            module.add_options(found)
            found.set_defaults(main=module.main)
    return parser
