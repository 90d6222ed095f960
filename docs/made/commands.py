"""The options of every command, from its parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

from ci import cli as pipeline
from docs.made.tables import code, table
from validation import cli, doctor

_PLAIN = ("options", "positional arguments")
"""Argparse's own names of groups."""


def of_validation(command: str) -> str:
    """The options of `python -m validation COMMAND`."""
    if command == "doctor":
        return _options(doctor.parser(), 3)
    return _options(_commands(cli._parser())[command], 3)


def of_recipe(command: str) -> str:
    """The options of `python -m validation recipe COMMAND`."""
    return _options(_commands(_commands(cli._parser())["recipe"])[command], 3)


def of_slurm(command: str) -> str:
    """The options of `python -m validation slurm COMMAND`."""
    return _options(_commands(_commands(cli._parser())["slurm"])[command], 3)


def of_pipeline() -> str:
    """The options of every command of `python -m ci`, below a heading each."""
    found = ((name, _commands(pipeline._parser(name))[name]) for name in pipeline.COMMANDS)
    return "\n".join(f"## {name}\n\n{parser.description}\n\n{_options(parser, 3)}" for name, parser in found)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    action = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def _options(parser: argparse.ArgumentParser, level: int) -> str:
    return "\n".join(_groups(parser, level)) or "It has no options.\n"


def _groups(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    for group in parser._action_groups:
        rows = list(_rows(parser, group._group_actions))
        if rows:
            title = "" if group.title in _PLAIN else f"{'#' * level} {_capital(group.title or '')}\n\n"
            said = f"\n```text\n{group.description}\n```\n" if group.description else ""
            yield title + table(("option", "meaning"), rows) + said


def _rows(parser: argparse.ArgumentParser, actions: Iterable[argparse.Action]) -> Iterator[tuple[str, str]]:
    formatter = parser._get_formatter()
    for action in actions:
        if action.help and action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            yield _named(action), _markdown(formatter._expand_help(action)) + _choices(action)


def _named(action: argparse.Action) -> str:
    """`--seed N`, `-q`, `--quiet`; of an option that takes a value the last name has it."""
    names = list(action.option_strings) or [str(action.metavar or action.dest)]
    if action.option_strings and action.nargs != 0:
        names[-1] += f" {_value(action)}"
    return ", ".join(map(code, names))


def _value(action: argparse.Action) -> str:
    one = str(action.metavar or ("WORD" if action.choices else action.dest.upper()))
    return f"{one} ..." if action.nargs in ("*", "+", argparse.REMAINDER) else one


def _choices(action: argparse.Action) -> str:
    """The words that an option takes, as far as its help does not say them."""
    words = [str(word) for word in action.choices or ()]
    return "" if not words or all(word in (action.help or "") for word in words) else f": {', '.join(map(code, words))}"


def _markdown(text: str) -> str:
    """Help as Markdown: what could be a tag or emphasis is none."""
    return text.replace("<", "&lt;").replace("*", "\\*")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
