"""`python -m ci matrix`: which sessions run, where, and why, as JSON for a workflow's matrix. Imports no torch."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ci import caller
from ci.table import EVENTS, Row, Tool, rows, tools
from validation.case.errors import UsageError

_DOCUMENTATION = re.compile(r"([^/]+\.md|docs/.+\.(md|svg)|LICENSE)")
"""What no number can depend on: no code reads it (a test looks). Anything else may, and has everything run."""
HOSTED = ("ubuntu-latest", "ubuntu-24.04", "ubuntu-24.04-arm", "ubuntu-22.04", "ubuntu-22.04-arm")
"""Labels of GitHub's own machines that sessions can run on. Any other word is one that somebody gave to a machine."""
_PLAIN = re.compile(r"[\w./+-]{1,100}")
_ALL = {
    "merge_group": "merge queue: everything runs",
    "nightly": "nightly: everything runs",
    "workflow_call": "asked for by the workflow's caller",
}


@dataclass(frozen=True)
class Choice:
    """A session, whether it runs, and why it does or does not."""

    session: Row | Tool
    runs: bool
    why: str
    own: bool = False
    """Whether all machines are one's own, whatever their labels: GitHub Enterprise Server has no others."""

    @property
    def compares(self) -> bool:
        """Whether it leaves results that the manifest asks for."""
        return isinstance(self.session, Row)

    @property
    def hosted(self) -> bool:
        """Whether it runs on a machine of GitHub's, by its one label; what does not waits for `permit` in a fork."""
        return not self.own and len(self.session.runner) == 1 and self.session.runner[0] in HOSTED

    def entry(self) -> dict[str, Any]:
        """Its part of `strategy.matrix.include`. A comparison without results is an error, a tool may have none."""
        return {
            "session": self.session.session,
            "runner": list(self.session.runner),
            "timeout": self.session.timeout,
            "gpus": self.session.gpus,
            "why": self.why,
            "artifact": f"{caller.prefix(os.environ)}{'results' if self.compares else 'tool'}-{self.session.session}",
            "missing": "error" if self.compares else "ignore",
        }


def choose(event: str, changed: Sequence[str], *, rows: Iterable[Row], tools: Iterable[Tool]) -> list[Choice]:
    """Every session of an event. `changed` are the files of a pull request; empty, they are unknown.

    A change of nothing but documentation leaves out what needs a GPU: no number can change, and the gate asks for what is
    left. Where nothing would be left, all runs.
    """
    if event not in EVENTS:
        raise UsageError(f"event {event!r} is unknown; known are {', '.join(EVENTS)}")
    listed: list[Row | Tool] = [*tools, *rows]
    found = [one for one in listed if event in one.when]
    why = _ALL.get(event) or _why(changed)
    if why or not any(isinstance(one, Row) and not one.gpus for one in found):
        return [Choice(one, True, why or "everything runs: every comparison needs a GPU") for one in found]
    return [_without_gpus(one, changed) for one in found]


def _why(changed: Sequence[str]) -> str:
    """Why everything runs for a pull request; empty if it need not."""
    if not changed:
        return "the changed files are unknown: everything runs"
    code = [name for name in changed if not _DOCUMENTATION.fullmatch(name)]
    return f"{_names(code)} changed" if code else ""


def _without_gpus(one: Row | Tool, changed: Sequence[str]) -> Choice:
    if one.gpus:
        return Choice(one, False, f"only documentation changed ({_names(changed)})")
    return Choice(one, True, "runs whatever changes")


def _names(changed: Sequence[str]) -> str:
    """The first of them, if it can stand in a report as it is: a pull request may name files as it likes."""
    first = changed[0] if _PLAIN.fullmatch(changed[0]) else "a file with an unusual name"
    return f"{first} and {len(changed) - 1} more" if len(changed) > 1 else first


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ci matrix`."""
    parser.add_argument("--event", required=True, metavar="EVENT", help=f"what happened: {', '.join(EVENTS)}")
    parser.add_argument("--changed-files", metavar="FILE", help="the changed files, a line each; - for standard input")
    parser.add_argument("--session", action="append", default=[], metavar="NAME", help="only this session (repeatable)")
    parser.add_argument("--gpus", action=argparse.BooleanOptionalAction, help="only what needs GPUs, or only what does not")
    parser.add_argument("--own-machines", action="store_true", help="no machine is GitHub's, whatever its label")
    parser.add_argument("--format", choices=tuple(_FORMATS), default="json", help=_FORMAT_HELP)


def main(options: argparse.Namespace) -> int:
    """Print the selection; a selection of nothing is an error."""
    changed = _changed_files(options.changed_files) if options.event == "pull_request" else []
    choices = choose(options.event, changed, rows=rows(), tools=tools())
    choices = [replace(one, own=options.own_machines) for one in _of_gpus(_named(choices, options), options.gpus)]
    if not any(choice.runs for choice in choices):
        raise UsageError(f"nothing is selected for {options.event}{_filters(options)}; a matrix of nothing would be green")
    sys.stdout.write(_FORMATS[options.format](choices))
    return 0


def _changed_files(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"--changed-files {path}: {error.strerror}; leave it out, and everything runs") from None
    return [line for line in text.splitlines() if line]


def _named(choices: list[Choice], options: argparse.Namespace) -> list[Choice]:
    """Those asked for by name, which run whatever changed."""
    if not options.session:
        return choices
    there = {choice.session.session: choice for choice in choices}
    if unknown := [name for name in options.session if name not in there]:
        raise UsageError(f"session {unknown[0]!r} is none of {options.event}; they are {', '.join(there)}")
    return [Choice(there[name].session, True, "asked for by name") for name in dict.fromkeys(options.session)]


def _of_gpus(choices: list[Choice], gpus: bool | None) -> list[Choice]:
    return choices if gpus is None else [choice for choice in choices if bool(choice.session.gpus) == gpus]


def _filters(options: argparse.Namespace) -> str:
    return "" if options.gpus is None else f" with --{'' if options.gpus else 'no-'}gpus"


def _json(choices: list[Choice]) -> str:
    return f"{json.dumps([choice.entry() for choice in choices if choice.runs])}\n"


def _github(choices: list[Choice]) -> str:
    """Lines for $GITHUB_OUTPUT: a matrix for each job, and `sessions`. A matrix may not be empty, so a job of none must not
    start: `[]` says so.

    `sessions` are the words that have `python -m ci manifest` ask for the same.
    """
    compared = [choice.session.session for choice in choices if choice.runs and choice.compares]
    halves = {"hosted": True, "self-hosted": False}
    lists = {job: _json([choice for choice in choices if choice.hosted is hosted]) for job, hosted in halves.items()}
    asked = " ".join(f"--session {name}" for name in compared)
    return "".join(f"{name}={text}" for name, text in lists.items()) + f"sessions={asked}\n"


def _markdown(choices: list[Choice]) -> str:
    lines = ["### What runs, and why", "", "| session | machine | why |", "| --- | --- | --- |"]
    lines += [_line(choice) for choice in choices if choice.runs]
    left = [choice for choice in choices if not choice.runs]
    lines += ["", "Left out:", "", *(f"- {choice.session.session}: {choice.why}" for choice in left)] if left else []
    return "\n".join(lines) + "\n"


def _line(choice: Choice) -> str:
    return f"| {choice.session.session} | {', '.join(choice.session.runner)} | {choice.why} |"


_FORMATS = {"json": _json, "github": _github, "markdown": _markdown}
_FORMAT_HELP = "json for strategy.matrix.include; github: lines for $GITHUB_OUTPUT; markdown: a table of what runs and why"
