"""Runs in a process of its own: what a checkout of Megatron-LM says of its arguments and configurations, as JSON.

`python describe.py CHECKOUT [--core]` imports the checkout's parser and prints its options, and the fields of the four
configurations with their defaults. Words on standard input (a JSON list) are read by that parser, too.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import enum
import importlib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

_ACTIONS = {
    "_StoreTrueAction": "true",
    "_StoreFalseAction": "false",
    "_StoreConstAction": "const",
    "_AppendAction": "append",
    "BooleanOptionalAction": "boolean",
}
_MOST_MISSING = 40
"""Packages that a parser may import and that a machine may lack."""
_OURS = ("megatron", "torch")
"""What no empty module can stand for."""
_CONFIGURATIONS = {
    "model": ("megatron.core.transformer", "MLATransformerConfig"),
    "ddp": ("megatron.core.distributed", "DistributedDataParallelConfig"),
    "optimizer": ("megatron.core.optimizer.optimizer_config", "OptimizerConfig"),
}


class _Anything(type):
    """The kind of an empty class: its attributes are such classes, too, and as a decorator it changes nothing."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})

    def __call__(cls, *values: Any, **named: Any) -> Any:
        """The function that it decorates, or another empty class."""
        return values[0] if len(values) == 1 and callable(values[0]) and not named else _Anything(cls.__name__, (), {})


class _Empty(types.ModuleType):
    """Stands for a package that is not installed, such as triton: whatever is imported from it is an empty class."""

    __version__ = "0"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


def _imported(name: str) -> Any:
    """The module, with empty ones in place of packages that are missing and that no argument needs."""
    for _ in range(_MOST_MISSING):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not error.name or error.name.split(".")[0] in _OURS:
                raise
            sys.modules[error.name] = _Empty(error.name)
    raise ImportError(f"{name} needs more than {_MOST_MISSING} packages that are not installed")


def plain(value: Any) -> Any:
    """A value as JSON has it; enumerations and data types by the name that the command line gives them."""
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    text = str(value).removeprefix("torch.")
    return getattr(value, "__name__", text) if callable(value) else text


def _typed(kind: Any) -> str:
    if kind is None:
        return "str"
    name = getattr(kind, "__name__", type(kind).__name__)
    return "enum" if name == "enum_type_handler" else str(name)


def _option(action: argparse.Action, group: str) -> dict[str, Any]:
    said = {
        "flags": list(action.option_strings),
        "dest": action.dest,
        "action": _ACTIONS.get(type(action).__name__, "store"),
        "nargs": action.nargs,
        "type": _typed(action.type),
        "choices": [plain(choice) for choice in action.choices] if action.choices else None,
        "default": plain(action.default),
        "const": plain(action.const),
        "group": group,
    }
    usual: dict[str, Any] = {"action": "store", "nargs": None, "type": "str", "choices": None, "default": None, "const": None}
    if said["action"] in ("true", "false"):
        usual |= {"nargs": 0, "const": said["action"] == "true", "default": said["action"] == "false"}
    return {name: value for name, value in said.items() if name not in usual or value != usual[name]}


def _options(parser: argparse.ArgumentParser) -> Iterator[dict[str, Any]]:
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.option_strings and action.dest != "help":
                yield _option(action, group.title or "")


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return plain(field.default)
    return plain(field.default_factory()) if field.default_factory is not dataclasses.MISSING else None


def fields() -> dict[str, dict[str, Any]]:
    """Section -> field of upstream's configuration -> its default there."""
    found: dict[str, dict[str, Any]] = {}
    for section, (module, name) in _CONFIGURATIONS.items():
        kind = getattr(_imported(module), name)
        found[section] = {field.name: _default(field) for field in dataclasses.fields(kind) if field.init}
    scheduler = _imported("megatron.core.optimizer_param_scheduler").OptimizerParamScheduler
    arguments = list(inspect.signature(scheduler.__init__).parameters.values())[2:]
    found["scheduler"] = {one.name: None if one.default is one.empty else plain(one.default) for one in arguments}
    return found


def _given(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, Any]:
    """What the parser makes of the words: values of the arguments that are given, and the words that it does not know."""
    nothing = object()
    unfilled = [action.dest for action in parser._actions if not isinstance(action, argparse._AppendAction)]
    blank = argparse.Namespace(**dict.fromkeys(unfilled, nothing))
    parser.exit_on_error = False
    try:
        read, unknown = parser.parse_known_args(words, blank)
    except (argparse.ArgumentError, argparse.ArgumentTypeError, AssertionError, ValueError, KeyError) as error:
        return {"refused": str(error)}
    values = {name: plain(value) for name, value in vars(read).items() if value is not nothing}
    return {"values": {name: value for name, value in values.items() if value is not None}, "unknown": unknown}


def described(words: Iterable[str] | None = None) -> dict[str, Any]:
    """All of it. Imports torch and the checkout."""
    if not hasattr(typing, "override"):
        # Python 3.11, which megatron-core supports and 0.18's training folder no longer does.
        setattr(typing, "override", lambda method: method)  # noqa: B010 - mypy knows no such name
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser = _imported("megatron.training.arguments").add_megatron_arguments(parser)
    about: dict[str, Any] = {"release": _imported("megatron.core.package_info").__version__}
    about |= {"fields": fields(), "options": list(_options(parser))}
    return about if words is None else about | {"read": _given(parser, list(words))}


def main(checkout: str) -> int:
    """Print what is said of this checkout; what its modules print meanwhile goes to standard error."""
    sys.path.insert(0, checkout)
    sys.argv[1:] = []
    text = "" if sys.stdin.isatty() else sys.stdin.read()
    with contextlib.redirect_stdout(sys.stderr):
        said = described(json.loads(text) if text else None)
    # A default such as an object's address would differ from run to run.
    sys.stdout.write(re.sub(r" at 0x[0-9a-f]+", "", json.dumps(said)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
