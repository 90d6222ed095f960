"""Words matched with the options of a parser, as argparse does it, with the place of each."""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from validation.case.annotation import Value
from validation.case.errors import UsageError
from validation.case.scalars import from_text
from validation.case.strangers import quoted, shown
from validation.recipe import idle
from validation.recipe.parser import Option, Parser
from validation.recipe.parser import with_flag as parser_of
from validation.recipe.recipe import Flag
from validation.recipe.words import SECRET, Word

_TRUE = {"true": True, "false": False}
_MOST_LAYERS = 100_000
"""Entries of a pattern over the layers, as [0]*3+[1]*58."""
_PATTERN = (ast.Expression, ast.BinOp, ast.List, ast.Tuple, ast.Constant, ast.Load)


@dataclass(frozen=True)
class Given:
    """An argument that is given: its option, its value, the flag with its words as they are written, and where."""

    option: Option
    value: Value
    text: str
    place: str


def read(
    parser: Parser, words: Sequence[Word], *, by_name: bool = False, of_fork: bool = False
) -> tuple[tuple[Given, ...], tuple[Flag, ...]]:
    """The arguments that are given, the last of a flag that is given twice, and the words that the parser does not know.

    `by_name` also takes an argument's own name for a flag and `true` or `false` for a switch, as ms-swift writes them:
    `--sequence_parallel true`. A fork's options may have choices of its own. Raises UsageError for a value that an option does
    not take.
    """
    given: dict[str, Given] = {}
    unknown: list[Flag] = []
    for flag, values in _groups(words):
        name, joined, value = flag.text.partition("=")
        option = parser.by_flag.get(name) or (parser.by_dest.get(name.lstrip("-").replace("-", "_")) if by_name else None)
        if option is None:
            unknown.append(_unknown(parser, flag, values))
            continue
        if of_fork and option.choices:
            option = replace(option, choices=())
        if joined:
            values = [Word(value, flag.place), *values]
        if not option.takes_values and not by_name:
            _alone(flag, name, value, values, joined=bool(joined))
        taken = _taken(option, values, by_name)
        one = _given(option, flag, taken, by_name)
        if option.action == "append" and option.dest in given and isinstance(given[option.dest].value, tuple):
            one = Given(option, (*_as_tuple(given[option.dest].value), *_as_tuple(one.value)), one.text, one.place)
        given[option.dest] = one
        unknown += [Flag(word.text, word.place, f"{name} takes no such word") for word in values[len(taken) :]]
    return tuple(given.values()), tuple(unknown)


def _alone(flag: Word, name: str, value: str, values: Sequence[Word], *, joined: bool) -> None:
    """Raises UsageError for a switch with a value, which Megatron-LM's parser refuses: `--bf16 false` would be on."""
    if joined or (values and values[0].text.lower() in _TRUE):
        said = quoted(value if joined else values[0].text)
        raise UsageError(
            f"{flag.place}: {shown(name)} takes no value, and {said} stands behind it; write the flag alone, or leave it out"
        )


def _as_tuple(value: Value) -> tuple[Value, ...]:
    return value if isinstance(value, tuple) else (value,)


def _groups(words: Sequence[Word]) -> Iterator[tuple[Word, list[Word]]]:
    """Each flag with the words up to the next; words before the first one stand alone."""
    place = 0
    while place < len(words):
        flag, place = words[place], place + 1
        values: list[Word] = []
        while flag.is_flag and place < len(words) and not words[place].is_flag:
            values.append(words[place])
            place += 1
        yield flag, values


def _unknown(parser: Parser, flag: Word, values: Sequence[Word]) -> Flag:
    text, name = " ".join([flag.text, *(word.text for word in values)]), flag.text.partition("=")[0]
    if not flag.is_flag:
        return Flag(text, flag.place, "no flag stands before it")
    if SECRET.fullmatch(name):
        return Flag(name, flag.place)
    if release := parser_of(name):
        return Flag(text, flag.place, f"the parser of {release} has it")
    near = difflib.get_close_matches(name.replace("_", "-"), parser.by_flag, 1, 0.85)
    return Flag(text, flag.place, f"the nearest is {near[0]}" if near else "")


def _taken(option: Option, values: list[Word], by_name: bool) -> list[Word]:
    """The words that belong to the option."""
    if by_name and not option.takes_values:
        return values[:1] if values and values[0].text.lower() in _TRUE else []
    if option.nargs in ("*", "+"):
        return values
    most = 1 if option.nargs in (None, "?") else int(option.nargs or 0)
    return values[:most]


def _given(option: Option, flag: Word, values: list[Word], by_name: bool) -> Given:
    text = " ".join([flag.text.partition("=")[0], *(word.text for word in values)])
    if not option.takes_values:
        said = _TRUE[values[0].text.lower()] if values else True
        return Given(option, _switched(option, flag.text, said, by_name), text, flag.place)
    wanted = 1 if option.nargs in (None, "+") else option.nargs if isinstance(option.nargs, int) else 0
    if not values and idle.is_idle(option):  # such as --load "$CKPT", where there is no checkpoint yet
        return Given(option, None, text, flag.place)
    if len(values) < wanted:
        raise UsageError(f"{flag.place}: {shown(flag.text)} needs a value after it; write one, or leave the flag out")
    typed = tuple(_typed(option, flag, word.text) for word in values)
    several = option.nargs in ("*", "+") or isinstance(option.nargs, int) or option.action == "append"
    return Given(option, typed if several else typed[0] if typed else option.const, text, flag.place)


def _switched(option: Option, flag: str, said: bool, by_name: bool) -> Value:
    """What a switch sets. By an argument's own name `true` is its value, whatever the flag of the parser would store."""
    if option.action == "boolean":
        return said and not flag.startswith("--no-")
    if by_name and flag not in option.flags:
        return said
    stored = bool(option.const) if option.action in ("true", "false") else option.const
    return stored if said else (not stored)


def _typed(option: Option, flag: Word, text: str) -> Value:
    try:
        value = _KINDS.get(option.kind, _text)(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, OverflowError):
        wanted = _WANTED.get(option.kind, "another value")
        hint = "; a launch script must run before its variables have values (recipe capture)" if "$" in text else ""
        hint = "; the quotes are part of the value here: leave them out" if text[:1] in ("'", '"') else hint
        raise UsageError(f"{flag.place}: {shown(flag.text)} takes {wanted}, not {quoted(text)}{hint}") from None
    if option.choices and value not in option.choices and not idle.is_idle(option):  # forks have tokenizers of their own
        choices = ", ".join(str(choice) for choice in option.choices)
        raise UsageError(f"{flag.place}: {shown(flag.text)} takes one of {choices}, not {quoted(text)}")
    return value


def _text(text: str) -> Value:
    return text


def pattern(text: str) -> Value:
    """A number, or a list over the layers that is written as a sum of products: `([0]*3+[1]*58)`. Raises ValueError."""
    tree = ast.parse(text.strip(), mode="eval")
    for node in ast.walk(tree):
        known = (*_PATTERN, ast.Add, ast.Mult)
        if not isinstance(node, known) or (isinstance(node, ast.Constant) and type(node.value) is not int):
            raise ValueError(text)
    found = _computed(tree.body)
    return tuple(found) if isinstance(found, list) else found


_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {ast.Add: operator.add, ast.Mult: operator.mul}


def _computed(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_computed(item) for item in node.elts]
    if not isinstance(node, ast.BinOp):
        raise ValueError("no sum, product or list")  # noqa: TRY004 - of a text, whose type is right
    left, right = _computed(node.left), _computed(node.right)
    sizes = [len(side) if isinstance(side, list) else abs(side) for side in (left, right)]
    if max(sizes) > _MOST_LAYERS or (isinstance(node.op, ast.Mult) and sizes[0] * sizes[1] > _MOST_LAYERS):
        raise ValueError("too many layers")
    try:
        return _OPERATIONS[type(node.op)](left, right)
    except TypeError:
        raise ValueError("a list and a number cannot be added") from None


def written(text: str) -> Value:
    """A value as YAML reads it, for types of a parser that are not known. Raises ValueError."""
    return from_text(text)


_KINDS: dict[str, Callable[[str], Value]] = {
    "int": int,
    "float": float,
    "bool": bool,
    "moe_freq_type": pattern,
    "la_freq_type": pattern,
    "no_rope_freq_type": pattern,
    "compress_ratios_type": pattern,
    "tuple_type": pattern,
    "_parse_pad_packed_seq_alignment": written,
}
_WANTED = {"int": "a whole number", "float": "a number"} | {
    name: "a whole number or a list such as ([0]*3+[1]*58)" for name, reader in _KINDS.items() if reader is pattern
}
