"""What the annotation of a field allows, as far as text can say it: read by `ast`, nothing imported. No torch."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from validation.case.suggestions import join

Value: TypeAlias = "bool | int | float | str | tuple[Value, ...] | None"

DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8", "float8_e4m3fn", "float8_e5m2")
"""The names by which text may mean a torch.dtype."""
_PLAIN: Mapping[str, type] = MappingProxyType({"bool": bool, "int": int, "float": float, "str": str})
_SEQUENCES = ("list", "List", "tuple", "Tuple", "Sequence", "Iterable")
_SHOWN = 12
"""Words of a closed list that a sentence repeats."""
_LARGEST_POWER = 64


class Unfit(Exception):
    """A value that an annotation does not allow; the message is what it allows."""


@dataclass(frozen=True)
class Plain:
    """bool, int, float, str or NoneType."""

    kind: type

    def fit(self, value: Value) -> Value:
        """The value, an int as a float if floats are meant. Raises Unfit."""
        if self.kind is float and type(value) is int:
            return float(value)
        if type(value) is not self.kind:
            raise Unfit(str(self))
        return value

    def __str__(self) -> str:
        return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(self.kind, "null")


@dataclass(frozen=True)
class Words:
    """A closed list: a Literal's, the members of an enum, or dtypes; `source` is the class that they name, if any."""

    words: tuple[Value, ...]
    source: str = ""

    def fit(self, value: Value) -> Value:
        """The value. Raises Unfit."""
        if not any(type(word) is type(value) and word == value for word in self.words):
            raise Unfit(str(self))
        return value

    def __str__(self) -> str:
        shown = [str(word) for word in self.words[:_SHOWN]]
        return " or ".join(shown) + (" or ..." if len(self.words) > _SHOWN else "")


@dataclass(frozen=True)
class Many:
    """A sequence of `of` (None: of anything), of `length` items if that is fixed."""

    of: Type | None
    length: int | None = None

    def fit(self, value: Value) -> Value:
        """The value with its items as they fit. Raises Unfit."""
        if not isinstance(value, tuple) or self.length not in (None, len(value)):
            raise Unfit(str(self))
        if self.of is None:
            return value
        try:
            return tuple(self.of.fit(item) for item in value)
        except Unfit as unfit:
            raise Unfit(str(self)) from unfit

    def __str__(self) -> str:
        count = f" of {self.length}" if self.length is not None else ""
        return f"a list{count}" + (f" in brackets, each item {self.of}" if self.of is not None else " in brackets")


@dataclass(frozen=True)
class Either:
    """One of several."""

    options: tuple[Type, ...]

    def fit(self, value: Value) -> Value:
        """The value, as the first option that allows it has it. Raises Unfit."""
        # An int stays one if both numbers are allowed.
        exact = [option for option in self.options if isinstance(option, Plain) and option.kind is type(value)]
        for option in (*exact, *self.options):
            try:
                return option.fit(value)
            except Unfit:
                continue
        raise Unfit(str(self))

    def __str__(self) -> str:
        said = (str(option) for option in self.options if not isinstance(option, Opaque))
        return join(dict.fromkeys(word for one in said for word in one.split(" or ")), "or")


@dataclass(frozen=True)
class Opaque:
    """What no text can say: a function, an object of megatron-core's. Allows nothing."""

    annotation: str

    def fit(self, value: Value) -> Value:
        """Raises Unfit."""
        raise Unfit(str(self))

    def __str__(self) -> str:
        return f"an object of Python's ({self.annotation})"


Type: TypeAlias = Plain | Words | Many | Either | Opaque
NONE = Plain(type(None))
Members: TypeAlias = Callable[[str], tuple[str, ...]]
"""The members of an enum that the annotation's module knows by this name; none for what is no enum."""


def read(node: ast.expr, members: Members) -> Type:
    """The type that an annotation says; what is not known to be plain, a word or a sequence of these is Opaque."""
    if isinstance(node, ast.Constant):
        return _constant(node, members)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return either(read(node.left, members), read(node.right, members))
    if isinstance(node, ast.Subscript):
        return _subscript(node, members)
    name = _last(node)
    if name in _PLAIN:
        return Plain(_PLAIN[name])
    if name in _SEQUENCES:
        return Many(None)
    if name == "dtype":
        return Words(DTYPES, "torch.dtype")
    found = members(name)
    return Words(found, name) if found else Opaque(ast.unparse(node))


def either(*options: Type) -> Type:
    """One of these, flat and each once; the only one if they are the same."""
    flat = dict.fromkeys(part for option in options for part in (option.options if isinstance(option, Either) else (option,)))
    return Either(tuple(flat)) if len(flat) > 1 else next(iter(flat))


def parts(kind: Type) -> Iterator[Type]:
    """The type, and all that it is made of."""
    yield kind
    inner = kind.options if isinstance(kind, Either) else (kind.of,) if isinstance(kind, Many) and kind.of else ()
    for part in inner:
        yield from parts(part)


def _constant(node: ast.Constant, members: Members) -> Type:
    """None, or an annotation in quotes."""
    if node.value is None:
        return NONE
    if isinstance(node.value, str):
        try:
            return read(ast.parse(node.value, mode="eval").body, members)
        except SyntaxError:
            return Opaque(node.value)
    return Opaque(ast.unparse(node))


def _subscript(node: ast.Subscript, members: Members) -> Type:
    name, inner = _last(node.value), node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        said = (item.value for item in inner if isinstance(item, ast.Constant))
        return Words(tuple(word for word in said if isinstance(word, (bool, int, str, type(None)))))
    if name == "Optional":
        return either(read(inner[0], members), NONE)
    if name == "Union":
        return either(*(read(item, members) for item in inner))
    if name in _SEQUENCES:
        open_ended = name not in ("tuple", "Tuple") or _is_ellipsis(inner[-1])
        kinds = [read(item, members) for item in inner if not _is_ellipsis(item)]
        return Many(either(*kinds), None if open_ended else len(kinds))
    return Opaque(ast.unparse(node))


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...


def _last(node: ast.expr) -> str:
    """`dtype` of `torch.dtype`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def constant(node: ast.expr) -> Value:
    """The value of an expression that upstream writes as a default; the last name of `AttnBackend.auto`. Raises ValueError."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Pow)):
        left, right = constant(node.left), constant(node.right)
        if isinstance(left, int) and isinstance(right, int):
            if isinstance(node.op, ast.Mult):
                return left * right
            if 0 <= right <= _LARGEST_POWER:
                return left**right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in ("list", "tuple") and not node.args:
            return ()
        if node.func.id == "float" and len(node.args) == 1:
            return float(str(constant(node.args[0])))
    found = ast.literal_eval(node)
    if isinstance(found, (bool, int, float, str, type(None))):
        return found
    if isinstance(found, (list, tuple)) and all(isinstance(item, (bool, int, float, str)) for item in found):
        return tuple(found)
    raise ValueError(ast.unparse(node))
