"""Whether a pickle of weights and settings can be read in the time and memory that its size allows. None of it is run.

Its instructions are followed with a word for each thing that they would make. What they may share, call or use as a key is
what torch.save writes of tensors, numbers, texts, arguments and arrays.
"""

from __future__ import annotations

import pickle
import pickletools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

_MOST = 1 << 22
"""Instructions, each with what it takes from the memo. A tensor takes 40."""
_NODES = 64
"""Things in a tuple and in the tuples in it that something is made from. A tensor of 16 dimensions takes 45."""
_TEXT = 16
"""Characters that count as a thing."""
_LONGEST_NAME = 256
_OURS = ("torch", "collections", "builtins", "__builtin__", "_codecs", "copy_reg", "copyreg")
"""Modules of which torch's list of what is safe has more than weights and settings need."""
_NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
    "torch._tensor _rebuild_from_type_v2",
    "torch Tensor",
    "torch.nn.parameter Parameter",
    "torch.serialization _get_layout",
    "torch Size",
    "torch device",
    "_codecs encode",
}
_OF_TORCH = re.compile(
    r"torch(\.storage)? \w+Storage|torch (b?float|u?int|complex|q?u?int)\w*|torch (bool|double|half|long|short)"
)
"""A kind of storage, which cannot be called in an archive's pickle, and a dtype."""
_CLASSES = {"torch Tensor", "torch.nn.parameter Parameter"}
_REBUILT = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter"}
"""What a tensor with attributes is and is made by. An optimizer's masters have those of megatron-core's parameters."""
_SCALARS = {"NONE", "NEWTRUE", "NEWFALSE"}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1"}


class Refused(pickle.UnpicklingError):
    """A file of torch.save that is not read, with the reason."""


class Asked(Refused):
    """A pickle that asks for a name that neither weights nor settings need: `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"asks for {name}")
        self.name = name


class _Made(NamedTuple):
    """A thing on the stack: its kind, its value where it is a name or a number, what it costs to use it, its parts."""

    kind: str
    value: Any = None
    cost: int = 1
    nodes: int = 1
    parts: tuple[_Made, ...] = ()


_SCALAR, _FLOAT, _LIST, _OBJECT = (_Made(kind) for kind in ("scalar", "float", "list", "object"))
_KEYS = {"text", "number", "scalar", "name"}
_PLAIN = _KEYS | {"float"}
_TAKEN = {"torch": _PLAIN, "torch._utils": _PLAIN | {"object", "dict"}, "": _PLAIN | {"bytes"}}
"""Kinds that functions of a module may be called with, and those of all others. What has items could be copied many times."""


def check(data: bytes) -> None:
    """Raises Refused where it has what would take forever, or memory that its size does not tell."""
    reader = _Follower()
    try:
        for operation, value, _ in pickletools.genops(data):
            reader.follow(operation.name, value)
    except Refused:
        raise
    except (ValueError, LookupError, UnicodeError, OverflowError) as error:
        raise Refused(f"has a pickle that is broken ({type(error).__name__})") from None


class _Follower:
    """The stack and the memo of a reader that makes nothing."""

    def __init__(self) -> None:
        self._stack: list[_Made] = []
        self._marked: list[list[_Made]] = []
        self._memo: dict[int, _Made] = {}
        self._left = _MOST

    def follow(self, word: str, value: Any) -> None:
        """One instruction."""
        self._charge(1)
        if word in _SCALARS:
            self._stack.append(_SCALAR)
        elif word == "BINFLOAT":
            self._stack.append(_FLOAT)
        elif word in _NUMBERS:
            self._stack.append(_Made("number", value))
        elif word in ("BINUNICODE", "SHORT_BINSTRING"):
            self._stack.append(_Made("text", cost=1 + len(value) // _TEXT, value=value if len(value) < 16 else None))
        else:
            act = getattr(self, f"_{word.lower()}", None)
            if act is None:
                raise Refused(f"has the instruction {word}, which torch.save writes none of")
            act(value)

    def _charge(self, cost: int) -> None:
        self._left -= cost
        if self._left < 0:
            raise Refused("has a pickle that makes more than a rank's weights and settings are")

    def _items(self) -> list[_Made]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _proto(self, value: int) -> None:
        pass

    def _stop(self, value: None) -> None:
        self._stack.pop()

    def _mark(self, value: None) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _global(self, value: str) -> None:
        module = value.partition(" ")[0].partition(".")[0]
        if len(value) > _LONGEST_NAME or (module in _OURS and value not in _NAMES and not _OF_TORCH.fullmatch(value)):
            raise Asked(value.replace(" ", ".", 1))
        self._stack.append(_Made("name", value))

    def _empty_list(self, value: None) -> None:
        self._stack.append(_LIST)

    def _empty_dict(self, value: None) -> None:
        self._stack.append(_Made("dict", [0]))

    def _empty_tuple(self, value: None) -> None:
        self._tuple_of(())

    def _tuple(self, value: None) -> None:
        self._tuple_of(self._items())

    def _tuple1(self, value: None) -> None:
        self._tuple_of([self._stack.pop()])

    def _tuple2(self, value: None) -> None:
        self._tuple_of([self._stack.pop() for _ in range(2)][::-1])

    def _tuple3(self, value: None) -> None:
        self._tuple_of([self._stack.pop() for _ in range(3)][::-1])

    def _tuple_of(self, parts: Iterable[_Made]) -> None:
        parts = tuple(parts)
        cost, nodes = 1 + sum(part.cost for part in parts), 1 + sum(part.nodes for part in parts)
        self._stack.append(_Made("tuple", None, cost, nodes, parts if nodes <= _NODES else ()))

    def _binput(self, value: int) -> None:
        self._memo[value] = self._stack[-1]

    _long_binput = _binput

    def _binget(self, value: int) -> None:
        made = self._memo[value]
        self._charge(made.cost)
        self._stack.append(made)

    _long_binget = _binget

    def _append(self, value: None) -> None:
        self._stack.pop()
        self._into("list")

    def _appends(self, value: None) -> None:
        self._items()
        self._into("list")

    def _setitem(self, value: None) -> None:
        self._set([self._stack.pop() for _ in range(2)][::-1])

    def _setitems(self, value: None) -> None:
        self._set(self._items())

    def _set(self, items: list[_Made]) -> None:
        """Keys are hashed: tuples in tuples would take forever, and numbers can be chosen to have the same hash."""
        for key in items[::2]:
            if key.kind not in _KEYS or (key.kind == "number" and not -(1 << 31) <= key.value < 1 << 31):
                raise Refused("has a key that is neither a name nor a number")
        self._into("dict")
        self._stack[-1].value[0] += len(items)

    def _into(self, kind: str) -> None:
        if self._stack[-1].kind != kind:
            raise Refused(f"puts items into what is no {kind}")

    def _binpersid(self, value: None) -> None:
        parts = self._stack.pop().parts
        if [part.kind for part in parts] != ["text", "name", "text", "text", "number"]:
            raise Refused("has a storage that is none")
        self._stack.append(_OBJECT)

    def _newobj(self, value: None) -> None:
        given, made = self._stack.pop(), self._stack.pop()
        self._stack.append(self._called(made, given))

    _reduce = _newobj

    def _called(self, function: _Made, given: _Made) -> _Made:
        name = function.value if function.kind == "name" else ""
        if not name or given.kind != "tuple" or given.nodes > _NODES:
            raise Refused("calls what makes no weight and no setting")
        if _OF_TORCH.fullmatch(name) or name in _CLASSES:
            raise Asked(name.replace(" ", ".", 1))
        if name == "torch._tensor _rebuild_from_type_v2":
            return self._with_attributes(given)
        if name == "collections OrderedDict":
            if given.nodes > 1:
                raise Refused("has an OrderedDict with items of its own")
            return _Made("dict", [0])
        leaves, (module, _, word) = list(_leaves(given)), name.partition(" ")
        if not {leaf.kind for leaf in leaves} <= _TAKEN.get(module, _TAKEN[""]):
            raise Refused(f"makes a {word[:_TEXT]} from what makes none")
        self._charge(sum(leaf.value[0] for leaf in leaves if leaf.kind == "dict"))
        if name == "_codecs encode":
            self._check_encoding(given)
            return _Made("bytes", cost=given.cost)
        # An array's size comes with its bytes, in its state.
        if module.startswith("numpy") and any(leaf.kind == "number" and not -1 <= leaf.value <= 1 for leaf in leaves):
            raise Refused("makes an array of a size of its own")
        return _OBJECT

    def _with_attributes(self, given: _Made) -> _Made:
        """A tensor, from what makes one without, its class, what that is called with, and the attributes."""
        if [part.kind for part in given.parts] != ["name", "name", "tuple", "dict"]:
            raise Refused("has a tensor with attributes that is none")
        function, kind, parts, attributes = given.parts
        if function.value not in _REBUILT or kind.value not in _CLASSES:
            raise Refused("has a tensor with attributes that is none")
        self._charge(attributes.value[0])
        return self._called(function, parts)

    def _check_encoding(self, given: _Made) -> None:
        """Other encodings make a text longer each time, or take time that grows with its square."""
        if [part.kind for part in given.parts] != ["text", "text"] or given.parts[1].value != "latin1":
            raise Refused("has bytes in an encoding that torch.save writes none of")

    def _build(self, value: None) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        if made.kind not in ("object", "dict"):
            raise Refused("fills what is no setting")
        if state.kind == "dict":
            self._charge(state.value[0])
        elif state.kind != "tuple" or state.nodes > _NODES or {leaf.kind for leaf in _leaves(state)} & {"list", "dict"}:
            raise Refused("fills a setting with what is none")


def _leaves(made: _Made) -> Iterable[_Made]:
    for part in made.parts:
        yield from _leaves(part) if part.kind == "tuple" else (part,)
