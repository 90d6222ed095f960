"""A parser whose refusal keeps its sentence: whoever asked for JSON is told in JSON what is wrong with the words."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from validation.case import tree
from validation.case.errors import ExitCode

_LAYOUT = re.compile(r"(single|([a-z]{2,3}\d+)+)(nosp)?([+,]|$)")
"""How a layout begins."""


class Refused(SystemExit):
    """Wrong usage, with argparse's exit code, which is ours."""

    def __init__(self, sentence: str) -> None:
        super().__init__(int(ExitCode.USAGE))
        self.sentence = sentence


class Parser(argparse.ArgumentParser):
    """argparse's, and so are those of its commands."""

    def parse_args(  # type: ignore[override]  # argparse declares one for each kind of namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """The options. Says what may have been meant by a word that is none. Raises Refused."""
        given = list(sys.argv[1:] if args is None else args)
        found, unknown = self.parse_known_args(given, namespace)
        if unknown:
            command = _command(self, given)
            command.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown[0], command)}")
        return found

    def error(self, message: str) -> NoReturn:
        """End with the usage and the message. Raises Refused."""
        names = [name for action in _commands(self) for name in action.choices]
        if names and message.casefold().endswith("are required: command"):
            message = f"give a command: {', '.join(names)}; --help says what each does"
        self.print_usage(sys.stderr)
        sys.stderr.write(f"{self.prog}: error: {message}\n")
        raise Refused(message)


def _commands(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction[Any]]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def _command(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command that the words begin with."""
    for word in words:
        parser = next((action.choices[word] for action in _commands(parser) if word in action.choices), parser)
    return parser


def _meant(word: str, command: argparse.ArgumentParser) -> str:
    """What may have been meant, as the end of a sentence; empty if nothing is near."""
    shown = [action for action in command._actions if action.help != argparse.SUPPRESS]
    options = [option for action in shown for option in action.option_strings]
    if "--layouts" in options and _LAYOUT.match(word):
        return f"; give --layouts {word}"
    near = difflib.get_close_matches(word.partition("=")[0], options, n=1) if word.startswith("-") else []
    return f"; the nearest option is {near[0]}" if near else ""


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
