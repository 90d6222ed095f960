"""A configuration that a plugin may change: megatron-core derives from the changes what it derives when it makes one.

A plugin sets fields of a configuration that is there already. Its `__post_init__`, which reads texts, fills in defaults and
refuses what contradicts itself, has run before.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

from megatron.core.transformer.transformer_config import MLATransformerConfig

from validation.candidate.config import arguments, made
from validation.case import fields, pipeline_layout, setting_rules
from validation.case.annotation import Value
from validation.case.case import Case
from validation.case.errors import UsageError

Configure = Callable[[Case, MLATransformerConfig], None]
_NEEDED = ("te", "gpu")
"""What fields need that change the layer: without it nothing reads them, or a rank breaks."""
_ALMOST = 0.9
"""How much of a name is another one's."""


@dataclasses.dataclass(frozen=True)
class Configured:
    """A configuration, and what megatron-core refuses in it; empty if nothing. A plugin may try what is wrong."""

    config: MLATransformerConfig
    refused: str = ""

    @contextmanager
    def building(self) -> Iterator[None]:
        """Within it a model that cannot be built has its reason, if megatron-core has refused the configuration."""
        try:
            yield
        except Exception as error:
            if self.refused:
                raise UsageError(self.refused) from error
            raise


class Overwritten:
    """The fields of the configuration to which a plugin gives another value, by their full names, with that value.

    A setting of the case that is one of them is not what the ranks compute with.
    """

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}

    def by(self, configure: Configure) -> Configure:
        """The plugin's function, watched."""

        def watched(case: Case, config: MLATransformerConfig) -> None:
            before = _state(config)
            configure(case, config)
            self.values |= {f"model.{name}": _plain(value) for name, value in _changed(config, before).items()}

        return watched


def configured(case: Case, configure: Configure) -> Configured:
    """The configuration of the case's model as a plugin's `configure` wants it.

    It is the object that the plugin has been given, so that what the plugin keeps stays true. Raises UsageError for a change
    that nothing would read.
    """
    given = arguments(case)
    config = made(given)
    before = _state(config)
    configure(case, config)
    changed = _changed(config, before)
    _check(case, config, changed)
    return Configured(config, _derive(config, given, changed) if changed else "")


def _state(config: MLATransformerConfig) -> dict[str, Any]:
    """The values of all fields, with lists of their own: a plugin may change one in place."""
    return {name: list(value) if isinstance(value, list) else value for name, value in vars(config).items()}


def _changed(config: MLATransformerConfig, before: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if name not in before or not _same(value, before[name])}


def _plain(value: Any) -> Value:
    """A value as a setting has it; an object of another kind by its name."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value if value is None or isinstance(value, bool | int | float | str) else getattr(value, "__name__", str(value))


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and bool(one == other))


def _check(case: Case, config: MLATransformerConfig, changed: Mapping[str, Any]) -> None:
    """Raises UsageError for what nothing would read."""
    declared = {field.name for field in dataclasses.fields(config)}
    for name, value in changed.items():
        entry = fields.entries().get(f"model.{name}")
        if entry is None:
            _check_spelling(name, value, declared)
            continue
        if name not in declared:
            raise UsageError(
                f"the plugin sets {_said(name, value)}, and this megatron-core does not have the field; leave it out"
            )
        need = entry.need(value) if value else ""
        said = f"the plugin sets {_said(name, value)}, which"
        if need in _NEEDED and (sentence := setting_rules.missing(case, said, need)):
            raise UsageError(sentence)
        if name == pipeline_layout.FIELD and case.model.mtp_layers:
            raise UsageError(
                f"the plugin sets model.{name}, and with MTP layers process groups that are there already follow from it; "
                f"--config model.{name}={value!r} sets it before"
            )


def _check_spelling(name: str, value: Any, declared: Set[str]) -> None:
    """Raises UsageError for the name of no field that is almost one. A plugin may keep things of its own in a configuration."""
    near = difflib.get_close_matches(name, declared - {name}, 1, _ALMOST) if name not in declared else []
    if near:
        raise UsageError(f"the plugin sets {_said(name, value)}, and Megatron-Core has no such field; did you mean {near[0]}?")


def _derive(config: MLATransformerConfig, given: Mapping[str, Any], changed: Mapping[str, Any]) -> str:
    """Have megatron-core make the configuration with the changes, and take over its fields. Returns why it refuses to."""
    wanted = {field.name: changed[field.name] for field in dataclasses.fields(config) if field.init and field.name in changed}
    try:
        derived = made({**given, **wanted})
    except Exception as error:  # whatever a __post_init__ raises
        why = " ".join(str(error).split()) or type(error).__name__
        return f"the plugin sets {', '.join(_listed(wanted))}, and Megatron-Core refuses that: {why}"
    for field in dataclasses.fields(config):
        setattr(config, field.name, getattr(derived, field.name))
    return ""


def _listed(changed: Mapping[str, Any]) -> Iterator[str]:
    yield from (_said(name, value) for name, value in changed.items())


def _said(name: str, value: Any) -> str:
    return f"model.{name}={value!r}"
