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


def described(help_: str) -> str:
    """What a command does, as a sentence: `compare, probe by probe` is `Compare, probe by probe.`"""
    return f"{help_[0].upper()}{help_[1:]}" + ("" if help_.endswith("?") else ".")


def describe(commands: argparse._SubParsersAction[Any]) -> None:
    """Have the help of each command, and of those below it, begin with what the list of commands says of it."""
    for listed in commands._choices_actions:
        command = commands.choices[listed.dest]
        command.description = command.description or described(listed.help or listed.dest)
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                describe(action)


class _Version(argparse.Action):
    """argparse's own would ask git before anybody asks for the version."""

    def __call__(self, *given: Any, **named: Any) -> NoReturn:
        sys.stdout.write(f"{tree.version()}\n")
        raise SystemExit(int(ExitCode.PASS))
