"""`.metadata` of torch.distributed.checkpoint, read as data.

The file is a pickle, and torch reads it with `pickle.load`, which runs whatever code a stranger has put into it. Here a pickle
may do no more than list the records that torch and megatron-core write: every name, instruction and value has to be known.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from validation.candidate.checkpoint.records import NoMetadata, check
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.strangers import read_bytes, shown

LARGEST = 128 << 20
"""Bytes. The metadata of DeepSeek-V3's weights has 10 MB. In memory it takes 40 times as much at most."""
_BYTES_OF_A_RECORD = 4
"""Bytes of the file for each thing that its reading makes, at least: a record, a list, a place in the memo. torch writes 6."""
_DIMENSIONS = 16
_LONGEST = 1 << 48
"""Of a dimension, and of an offset: numbers near 2^61 can be chosen so that all have the same hash."""
_INSTRUCTIONS = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE "
    "EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS BINPUT LONG_BINPUT MEMOIZE "
    "BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD"
)
"""Those of protocols 2 to 5 that a pickle of such records is made of."""


class _Refused(Exception):
    """A pickle that is no metadata, with the reason."""


class _Asked(_Refused):
    """A pickle that asks for a name that no metadata needs."""


class _Unused:
    """A record of how a checkpoint was planned: nobody needs it to read one."""


class _Enum:
    """An enumeration none of whose values matters here."""

    def __call__(self, value: object) -> None:
        """By its value, as Python 3.11.4 and later pickle it."""


def _member(of: object, name: object) -> None:
    """`getattr`, which Python before 3.11.4 pickles a member of an enumeration with."""
    if not isinstance(of, _Enum):
        raise _Asked("asks for builtins.getattr of something that is no enumeration")


def _size(dimensions: object) -> torch.Size:
    if not isinstance(dimensions, (tuple, list)) or len(dimensions) > _DIMENSIONS:
        raise _Refused("has a torch.Size that is no list of dimensions")
    if not all(type(size) is int and 0 <= size <= _LONGEST for size in dimensions):
        raise _Refused("has a torch.Size with a dimension that is none")
    return torch.Size(dimensions)


def _layout(name: object) -> torch.layout:
    if name != "torch.strided":
        raise _Refused(f"has a tensor of layout {shown(name)}; only torch.strided is read")
    return torch.strided


def _path(*parts: object) -> None:
    """Where the checkpoint was written: no business of a reader's."""


def _properties(made: Any, state: object) -> None:
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[0], torch.dtype):
        raise _Refused("has a tensor without a dtype")
    made.__dict__["dtype"] = state[0]


def _nothing(made: Any, state: object) -> None:
    """What is not used is not kept."""


def _fields(*names: str) -> Callable[[Any, object], None]:
    def fill(made: Any, state: object) -> None:
        if not isinstance(state, dict) or len(state) > 2 * len(names) + 2:
            raise _Refused(f"has a {type(made).__name__} that is none")
        made.__dict__.update({name: state[name] for name in names if name in state})

    return fill


_DCP, _MCORE = "torch.distributed.checkpoint", "megatron.core.dist_checkpointing.strategies.torch"
_BEFORE_2_3 = "torch.distributed._shard.sharded_tensor.metadata"
_METADATA = ("state_dict_metadata", "planner_data", "storage_data", "version", "mcore_data")
_KINDS: Mapping[type, Callable[[Any, object], None]] = {
    Metadata: _fields(*_METADATA),
    TensorStorageMetadata: _fields("properties", "size", "chunks"),
    TensorProperties: _properties,
    ChunkStorageMetadata: _fields("offsets", "sizes"),
    MetadataIndex: _fields("fqn", "offset", "index"),
    _StorageInfo: _fields("relative_path", "offset", "length", "transform_descriptors"),
    BytesStorageMetadata: _nothing,
    StorageMeta: _nothing,
    _Unused: _nothing,
}
"""How each kind of record takes its state."""
_ENUM = _Enum()
_NAMES: dict[tuple[str, str], Any] = {
    **{(f"{_DCP}.metadata", kind.__name__): kind for kind in _KINDS if kind.__module__ == f"{_DCP}.metadata"},
    (f"{_DCP}.filesystem", "_StorageInfo"): _StorageInfo,
    (f"{_DCP}.metadata", "_MEM_FORMAT_ENCODING"): _ENUM,
    (_BEFORE_2_3, "TensorProperties"): TensorProperties,
    (_BEFORE_2_3, "MEM_FORMAT_ENCODING"): _ENUM,
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    ("torch", "Size"): _size,
    ("torch.serialization", "_get_layout"): _layout,
    ("builtins", "getattr"): _member,
    **{(module, "PosixPath"): _path for module in ("pathlib", "pathlib._local")},
    # megatron-core keeps the plans of its ranks, and 0.13 to 0.15 had a class of their own for the metadata.
    (_MCORE, "MCoreMetadata"): Metadata,
    (_MCORE, "MCoreSavePlan"): _Unused,
    **{(f"{_DCP}.planner", name): _Unused for name in ("SavePlan", "WriteItem", "TensorWriteData", "BytesIOWriteData")},
    (f"{_DCP}.planner", "WriteItemType"): _ENUM,
    (f"{_DCP}.filesystem", "_StoragePrefix"): _Unused,
}
"""Every name that a pickle may ask for, with what it gets for it."""
_FUNCTIONS = (_size, _layout, _member, _path, _ENUM)


_InPython: Any = pickle._Unpickler


class _Reader(_InPython):
    """Python's own unpickler in Python, with fewer instructions and with names that stand for what is known.

    The one in C cannot be held to that: it takes 64 GB for ten bytes that name a place in its memo, and hashes any key.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._left = len(data) // _BYTES_OF_A_RECORD + 64

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for; nothing is imported or looked up in a module."""
        if not (isinstance(module, str) and isinstance(name, str) and (module, name) in _NAMES):
            raise _Asked(f"asks for {shown(module)}.{shown(name)}")
        return _NAMES[module, name]

    def _record(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _Refused("has more records than its size allows")

    def load_reduce(self) -> None:
        """Calls one of our functions with a few arguments."""
        given, function = self.stack.pop(), self.stack[-1]
        if not any(function is one for one in _FUNCTIONS) or type(given) is not tuple or len(given) > 64:
            raise _Refused("calls what is no part of a checkpoint's metadata")
        self._record()
        self.stack[-1] = function(*given)

    def load_newobj(self) -> None:
        """Makes an empty record."""
        given, kind = self.stack.pop(), self.stack[-1]
        if not (isinstance(kind, type) and kind in _KINDS) or given != ():
            raise _Refused("makes what is no part of a checkpoint's metadata")
        self._record()
        self.stack[-1] = object.__new__(kind)

    def load_build(self) -> None:
        """Fills a record."""
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) not in _KINDS:
            raise _Refused("fills what is no part of a checkpoint's metadata")
        _KINDS[type(made)](made, state)

    def load_empty_dictionary(self) -> None:
        """A dict of no items."""
        self._record()
        self.append({})

    def load_empty_list(self) -> None:
        """A list of no items."""
        self._record()
        self.append([])

    def load_mark(self) -> None:
        """The beginning of some items."""
        self._record()
        super().load_mark()

    def load_memoize(self) -> None:
        """Keeps what was made last."""
        self._record()
        super().load_memoize()

    def load_binput(self) -> None:
        """The same, in earlier protocols."""
        self._record()
        super().load_binput()

    def load_long_binput(self) -> None:
        """The same."""
        self._record()
        super().load_long_binput()

    def load_setitems(self) -> None:
        """Puts items into a dict. Their keys are hashed: of nested tuples that could take forever."""
        items = self.pop_mark()
        self._set(items)

    def load_setitem(self) -> None:
        """Puts one item into a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set(self, items: list[Any]) -> None:
        into = self.stack[-1]
        if type(into) is not dict:
            raise _Refused("puts items into what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str and not (type(key) is MetadataIndex and _hashable(key)):
                raise _Refused("has a key that is neither a name nor a place in a tensor")
            into[key] = value

    def load_appends(self) -> None:
        """Puts items into a list."""
        items = self.pop_mark()
        if type(self.stack[-1]) is not list:
            raise _Refused("puts items into what is no list")
        self.stack[-1].extend(items)

    def load_append(self) -> None:
        """Puts one item into a list."""
        item = self.stack.pop()
        if type(self.stack[-1]) is not list:
            raise _Refused("puts an item into what is no list")
        self.stack[-1].append(item)


def _unknown(reader: _Reader) -> NoReturn:
    raise _Refused("has an instruction that no checkpoint's metadata has")


def _dispatch() -> dict[int, Callable[[Any], None]]:
    known = {getattr(pickle, name)[0] for name in _INSTRUCTIONS.split()}
    ours = {
        pickle.REDUCE: _Reader.load_reduce,
        pickle.NEWOBJ: _Reader.load_newobj,
        pickle.BUILD: _Reader.load_build,
        pickle.EMPTY_DICT: _Reader.load_empty_dictionary,
        pickle.EMPTY_LIST: _Reader.load_empty_list,
        pickle.MARK: _Reader.load_mark,
        pickle.MEMOIZE: _Reader.load_memoize,
        pickle.BINPUT: _Reader.load_binput,
        pickle.LONG_BINPUT: _Reader.load_long_binput,
        pickle.SETITEM: _Reader.load_setitem,
        pickle.SETITEMS: _Reader.load_setitems,
        pickle.APPEND: _Reader.load_append,
        pickle.APPENDS: _Reader.load_appends,
    }
    theirs = {code: function if code in known else _unknown for code, function in _InPython.dispatch.items()}
    return dict.fromkeys(range(256), _unknown) | theirs | {code[0]: function for code, function in ours.items()}


_Reader.dispatch = _dispatch()


def _hashable(index: MetadataIndex) -> bool:
    return type(index.__dict__.get("fqn")) is str and isinstance(index.__dict__.get("offset"), (torch.Size, type(None)))


_BROKEN = (
    _Refused,
    NoMetadata,
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
    RecursionError,
    MemoryError,
)
"""What becomes of a pickle that was cut off, or of bytes that are none."""


def check_files(folder: Path, metadata: Metadata) -> None:
    """Raises UsageError where a file that the metadata names is not there, is no file or ends too early.

    Who opens a pipe waits for its other end.
    """
    ends: dict[str, int] = {}
    for info in metadata.storage_data.values():
        ends[info.relative_path] = max(ends.get(info.relative_path, 0), info.offset + info.length)
    missing = [name for name in sorted(ends) if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{folder}: {missing[0]} is missing ({many(len(missing), 'file is', 'files are')}); the checkpoint is not whole"
        )
    for name, end in sorted(ends.items()):
        if (size := (folder / name).stat().st_size) < end:
            raise UsageError(
                f"{folder}: {name} has {many(size, 'byte')}, and .metadata needs {end}; the checkpoint is not whole"
            )


def read_metadata(folder: Path) -> Metadata:
    """What `.metadata` of a folder says, checked in every part. Raises UsageError, which names what a stranger's asks for."""
    path = folder / ".metadata"
    data = read_bytes(path, LARGEST, "convert or save the checkpoint again")
    try:
        return check(_Reader(data).load())
    except _Asked as error:
        raise UsageError(
            f"{path} {error}, which no metadata of a checkpoint needs; nothing of it was run, take the checkpoint from "
            "a source that you trust, or convert it again"
        ) from None
    except _BROKEN as error:
        said = shown(str(error) or type(error).__name__)
        raise UsageError(
            f"{folder}: .metadata cannot be read ({said}); the checkpoint is not whole, convert or save it again"
        ) from None
