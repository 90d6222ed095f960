"""What a plugin may do in each rank: look at the model while it is made, or change it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from validation.case.case import Case
from validation.case.errors import UsageError


def _nothing(*given: Any) -> None:
    """What a function that a plugin leaves out does."""


@dataclass(frozen=True)
class Plugin:
    """The functions that a rank calls, in this order; a plugin has one or more of them.

    `model` is a list: this rank's chunks of the model (megatron-core's GPTModel), one for each virtual pipeline stage, and for
    `wrapped` and `stepped` the same under DistributedDataParallel. `config` is the configuration that they are built from.
    Weights have been compared when `loaded` is called, gradients are not yet there when `wrapped` is. Steps count from 1.
    """

    configure: Callable[[Case, Any], None] = _nothing
    built: Callable[[Case, Any], None] = _nothing
    loaded: Callable[[Case, Any], None] = _nothing
    wrapped: Callable[[Case, Any], None] = _nothing
    stepped: Callable[[Case, Any, int], None] = _nothing


FUNCTIONS = tuple(field.name for field in fields(Plugin))


def load(name: str) -> Plugin:
    """The plugin `package.module`, or an object with such functions in it, `package.module:name`; none for ''.

    Raises UsageError where it cannot be imported, or where none of its functions would ever be called.
    """
    if not name:
        return Plugin()
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        found = getattr(found, attribute) if attribute else found
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"plugin {name}: cannot be imported ({error}); give package.module, or package.module:name, of something importable"
        ) from error
    functions = {word: getattr(found, word) for word in FUNCTIONS if callable(getattr(found, word, None))}
    if not functions:
        raise UsageError(f"plugin {name}: it has no function that a rank calls; those are {', '.join(FUNCTIONS)}")
    return Plugin(**functions)
