"""torch's functions that take a dtype, a device or pinned memory, and others in their places.

A function mode sees every call of torch, and each takes 2 us longer for that. A rank makes thirty thousand calls, and nine
in ten can ask for none of these.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch

Function = Callable[..., Any]
Place = tuple[Any, str, Any]
"""A module, class, function or cell, the name of an attribute, and its value: one of torch's functions, or what holds some."""

_COMPILED = ("_VariableFunctions", "_nn", "_fft", "_linalg", "_special", "_sparse", "_nested")
"""Where torch._C has its functions; those of the last have the name of their namespace in front."""
_PUBLIC = ("functional", "nn.functional", "fft", "linalg", "special", "sparse", "nested")
"""Modules of torch that have the same functions, by their own names."""
_REQUESTS = ("ScalarType", "Device")
_UNDECLARED = frozenset(("_parse_to", "asarray", "cuda", "dsmm", "float", "new", "new_tensor", "spmm", "type"))
"""Functions and methods that Python alone has, so that no schema of torch's says what they take."""
_OWN = ("torch", "validation")
"""Packages whose names stay: a mode does not see what torch's own functions call, and Plumbline compares with the originals."""


@functools.cache
def names() -> frozenset[str]:
    """Names of torch's functions and methods that take a dtype or a device, by torch's own schemas.

    What takes `pin_memory` takes a device, too.
    """
    asking = (
        schema.name.removeprefix("aten::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("aten::") and any(map(_is_request, schema.arguments))
    )
    return _UNDECLARED.union(asking)


def _is_request(argument: Any) -> bool:
    return any(kind in str(argument.real_type) for kind in _REQUESTS)


@functools.cache
def torchs() -> tuple[Place, ...]:
    """Where torch has the functions."""
    spaces = [space for name in _COMPILED if (space := getattr(torch._C, name, None)) is not None]
    compiled = [(space, name, getattr(space, name)) for space in spaces for name in names().intersection(dir(space))]
    known = {id(function) for _, _, function in compiled}
    modules = [torch, *(functools.reduce(getattr, path.split("."), torch) for path in _PUBLIC)]
    public = [(one, name, value) for one in modules for name, value in list(vars(one).items()) if id(value) in known]
    methods = [(torch.Tensor, name, getattr(torch.Tensor, name)) for name in names().intersection(dir(torch.Tensor))]
    operators = [(kind, "__call__", kind.__call__) for kind in (torch._ops.OpOverload, torch._ops.OpOverloadPacket)]
    # Nobody can change the first space. Python reaches it through this module, which asks it for what it has not itself.
    behind = [(torch._VF, name, function) for space, name, function in compiled if space is spaces[0]]
    changeable = [place for place in compiled if place[0] is not spaces[0]]
    return *behind, *changeable, *public, *methods, *operators


@functools.cache
def others() -> tuple[Place, ...] | None:
    """Where others have kept them: names of modules and classes, defaults and closures of functions.

    None if one is in a table, where no exchange reaches it.
    """
    known = {id(function) for _, _, function in torchs()}
    of_torch = {id(torch.Tensor), *(id(module) for title, module in sys.modules.items() if title.partition(".")[0] == "torch")}
    found: list[Place] = []
    for title, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and title.partition(".")[0] not in _OWN:
            own = list(vars(module).items())
            if any(id(value) in of_torch or id(value) in known for _, value in own):
                found += [place for name, value in own for place in _kept(module, name, value, title, known)]
    return None if any(value is None for _, _, value in found) else tuple(found)


def _kept(space: Any, name: str, value: Any, module: str, known: set[int]) -> Iterator[Place]:
    """Places of the functions in a value of a module's; one without a value for a table."""
    if id(value) in known:
        yield space, name, value
    elif isinstance(value, FunctionType):
        if value.__module__ == module:
            for attribute in ("__defaults__", "__kwdefaults__"):
                if _has(held := getattr(value, attribute), known):
                    yield value, attribute, held
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):  # it is empty
                    if id(cell.cell_contents) in known or _has(cell.cell_contents, known):
                        yield cell, "cell_contents", cell.cell_contents if id(cell.cell_contents) in known else None
    elif isinstance(value, type):
        if value.__module__ == module:
            for own, given in list(vars(value).items()):
                inner = given.__func__ if isinstance(given, staticmethod | classmethod) else given
                for place in _kept(value, own, inner, module, known):
                    yield (value, own, None) if place[0] is value and inner is not given else place
    elif _has(value, known):
        yield space, name, None


def _has(value: Any, known: set[int]) -> bool:
    if isinstance(value, functools.partial):
        return _has((value.func, *value.args, *value.keywords.values()), known)
    parts: Iterable[Any] = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | list | tuple | set | frozenset) and any(id(part) in known for part in list(parts))


@contextlib.contextmanager
def exchanged(instead: Callable[[Function], Function]) -> Iterator[None]:
    """Within it `instead` of each function stands wherever it is found, in every thread.

    A place that has something else by now is left alone.
    """
    made = {id(function): instead(function) for _, _, function in torchs()}

    def other(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(made.get(id(part), part) for part in value)
        return {key: made.get(id(part), part) for key, part in value.items()} if isinstance(value, dict) else made[id(value)]

    kept = [(space, name, value) for space, name, value in others() or () if getattr(space, name, None) is value]
    own = [(space, name, vars(space).get(name)) for space, name, _ in torchs()]
    try:
        for space, name, value in (*torchs(), *kept):
            setattr(space, name, other(value))
        yield
    finally:
        for space, name, value in (*kept, *own):
            if value is None:
                delattr(space, name)
            else:
                setattr(space, name, value)
