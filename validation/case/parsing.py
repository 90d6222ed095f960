"""A parser whose refusal keeps its sentence: whoever asked for JSON is told in JSON what is wrong with the words."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from validation.case import tree
from validation.case.errors import ExitCode


class Refused(SystemExit):
    """Wrong usage, with argparse's exit code, which is ours."""

    def __init__(self, sentence: str) -> None:
        super().__init__(int(ExitCode.USAGE))
        self.sentence = sentence


class Parser(argparse.ArgumentParser):
    """argparse's, and so are those of its commands."""

    def error(self, message: str) -> NoReturn:
        """End with the usage and the message. Raises Refused."""
        self.print_usage(sys.stderr)
        sys.stderr.write(f"{self.prog}: error: {message}\n")
        raise Refused(message)


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add `--version`, which says what the code is that would run."""
    parser.add_argument("--version", action=_Version, nargs=0, help="say which version and which commit this is")


class _Version(argparse.Action):
    """argparse's own would ask git before anybody asks for the version."""

    def __call__(self, *given: Any, **named: Any) -> NoReturn:
        sys.stdout.write(f"{tree.version()}\n")
        raise SystemExit(int(ExitCode.PASS))
