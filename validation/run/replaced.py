"""What a plugin has put into megatron-core, and whether anything of a run calls it."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

_PACKAGE = "megatron.core"
_TRAINING = tuple(f"validation.candidate.{name}" for name in ("build", "checkpointing", "optimizer", "spec", "step"))
"""What stands for a training script. That would import what a plugin has replaced; here it has been imported before."""
_OF_BOTH = (
    "torch",
    "torch.nn.functional",
    "torch._tensor",
    "torch.nn.modules.",
    "transformers.models.",
    "transformers.activations",
)
"""Modules of which HuggingFace's model, too, takes functions; a dot at the end stands for all that begin so."""
_JUDGING = (
    *("validation.compare.", "validation.reference.", "validation.case."),
    *(f"validation.candidate.{name}" for name in ("compare", "probes", "recorder", "replay", "unreduced")),
    *("validation.run.report", "validation.run.worker"),
)
"""Modules whose functions compare what a plugin changes, and tell it."""
_Place = tuple[str, str, str]
"""Module, class in it (empty for none) and name."""


class Replaced:
    """The functions and classes that a plugin replaces, and those that were called afterwards.

    Only Python functions and classes with any can be seen, those alone that are replaced in a module or a class of
    megatron-core, and calls of the rank's own thread alone. On a GPU another thread goes back through the model.
    `of_both` are names that a plugin has replaced and that the reference in the same process calls, too. `changed` says that
    it has replaced anything at all in megatron-core, `judging` are names that it has replaced in what judges the ranks.
    """

    def __init__(self, *, watching: bool = True, lockstep: bool = False) -> None:
        self._watching, self._lockstep = watching and sys.getprofile() is None, lockstep
        self.of_both: list[str] = []
        self.judging: list[str] = []
        self.changed = False
        self._codes: dict[_Place, set[CodeType]] = {}
        self._before: dict[_Place, Any] = {}
        self._waiting: set[CodeType] = set()
        self._ran: set[CodeType] = set()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Within it the plugin's own code runs."""
        before, both, judging = dict(_bound(_core)), self._computing_both(), _judges()
        self._stop()
        try:
            yield
        finally:
            now = {place: value for place, value in _bound(_core) if place in before and before[place] is not value}
            self.changed |= bool(now)
            for place, value in now.items():
                self._take(place, before[place], value)
            self.of_both += _exchanged(both, self._computing_both())
            self.judging += _exchanged(judging, _judges())
            if self._watching and self._uncalled():
                sys.setprofile(self._called)

    def _computing_both(self) -> dict[_Place, Any]:
        """In lockstep, where the reference shares the process: every function that both models may call."""
        return {place: value for place, value in _bound(_both) if callable(value)} if self._lockstep else {}

    def end(self) -> dict[str, str]:
        """Name of each that nobody has called -> a module that has the one before it; empty if there is none."""
        self._stop()
        uncalled = self._uncalled() if self._watching else []
        return {".".join(filter(None, place)): _holder(place, self._before[place]) for place in uncalled}

    def _take(self, place: _Place, before: Any, value: Any) -> None:
        module, owner, name = place
        if not owner:
            _hand_on(module, name, before, value)
        codes = set(_codes(value))
        if codes & self._ran:
            return  # a resumed run replaces it again, and each layer of a streamed one
        if codes:
            self._codes[place] = codes
            self._before.setdefault(place, before)
            self._waiting |= codes

    def _called(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in self._waiting:
            self._waiting.discard(frame.f_code)
            self._ran.add(frame.f_code)
            if not self._uncalled():
                sys.setprofile(None)

    def _uncalled(self) -> list[_Place]:
        """Those of whose functions none was called."""
        return [place for place, codes in self._codes.items() if codes <= self._waiting]

    def _stop(self) -> None:
        if self._watching:
            sys.setprofile(None)


def _judges() -> dict[_Place, Any]:
    """Every function and class of what judges the ranks. Variables may be set by a first use."""
    return {place: value for place, value in _bound(_judging) if callable(value)}


def _exchanged(before: Mapping[_Place, Any], after: Mapping[_Place, Any]) -> list[str]:
    return [".".join(filter(None, place)) for place in before if after.get(place) is not before[place]]


def _judging(name: str) -> bool:
    return name.startswith(_JUDGING)


def _core(name: str) -> bool:
    return name == _PACKAGE or name.startswith(f"{_PACKAGE}.")


def _both(name: str) -> bool:
    return any(name.startswith(one) if one.endswith(".") else name == one for one in _OF_BOTH)


def _modules(wanted: Callable[[str], bool]) -> Iterator[ModuleType]:
    names = [name for name in list(sys.modules) if wanted(name)]
    return (module for name in names if isinstance(module := sys.modules.get(name), ModuleType))


def _bound(wanted: Callable[[str], bool]) -> Iterator[tuple[_Place, Any]]:
    """Everything that has a name in such modules, and in the classes of each."""
    for module in _modules(wanted):
        for name, value in list(vars(module).items()):
            yield (module.__name__, "", name), value
            if isinstance(value, type) and value.__module__ == module.__name__:
                yield from (((module.__name__, name, own), given) for own, given in list(vars(value).items()))


def _codes(value: Any) -> Iterator[CodeType]:
    """The code of a function, or of those of a class. Of what is compiled there is none that would run."""
    if isinstance(value, type):
        for own in list(vars(value).values()):
            if not isinstance(own, type):
                yield from _codes(own)
        return
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if hasattr(value, "_torchdynamo_orig_callable"):
        return
    inner = inspect.unwrap(value) if callable(value) else value
    if isinstance(inner, FunctionType):
        yield inner.__code__


def _holder(place: _Place, before: Any) -> str:
    """A module of megatron-core that has the one before, for a name of a module."""
    module, owner, _ = place
    if owner:
        return ""
    others = (other for other in _modules(_core) if other.__name__ != module)
    return next((other.__name__ for other in others if any(value is before for value in list(vars(other).values()))), "")


def _hand_on(module: str, name: str, before: Any, value: Any) -> None:
    """Have Plumbline take it, where it has imported what was there by this name."""
    for reader in _TRAINING:
        there = sys.modules.get(reader)
        own = _imported(reader).get((module, name)) if there is not None else None
        if own is not None and getattr(there, own, None) is before:
            setattr(there, own, value)


@functools.cache
def _imported(reader: str) -> Mapping[tuple[str, str], str]:
    """Module and name -> the reader's own name of it."""
    tree = ast.parse(inspect.getsource(sys.modules[reader]))
    statements = (node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module)
    return {(str(node.module), alias.name): alias.asname or alias.name for node in statements for alias in node.names}
