"""Documents of a file in place of random tokens: JSON lines, text, or Megatron's indexed data set. No torch.

What is read of a file are numbers, and no more of them than the batches of a case take: a data set may be larger than memory.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from array import array
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from validation.case.case import Case
from validation.case.data import END, WITH_PADDING
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.strangers import parsed, shown
from validation.case.texts import Encode, encoder

Document = tuple[int, ...]
KEYS, TEXT = ("input_ids", "tokens"), "text"
"""What an object of a line calls its token ids, and its text."""
_WORKS = "give token ids or text as JSON lines, or the .idx of Megatron's indexed data set"
_LONGEST_LINE, _MOST_DOCUMENTS = 1 << 26, 1 << 32
_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_TYPES = {1: "B", 2: "b", 3: "h", 4: "i", 5: "q", 8: "H"}
"""Whole numbers in a .bin, as array names them, by the number in the .idx (megatron/core/datasets/indexed_dataset.py)."""


def of_file(case: Case, path: Path) -> Case:
    """The case with the file's tokens, which its name tells by a digest. Raises UsageError if there are too few, or others."""
    digest = hashlib.sha256(repr(taken(case, path)).encode()).hexdigest()[:8]
    return replace(case, data=str(path), data_digest=digest)


def taken(case: Case, path: Path) -> tuple[Document, ...]:
    """The documents of a file, in its order, that the batches of all steps take; each ends with END. Raises UsageError.

    Sequences are cut out of the stream of all documents, as GPTDataset of megatron-core cuts them. With padding each sequence
    is a document of its own, without what is longer than the sequence.
    """
    sequences = case.batch_size * max(1, case.training.steps)
    found: list[Document] = []
    left = sequences if case.training.data_shape in WITH_PADDING else sequences * case.seq_length + 1
    for number, tokens in enumerate(_documents(path, encoder(case, path))):
        if wrong := next((token for token in tokens if not 0 <= token < case.model.vocab_size), None):
            raise UsageError(
                f"{path}: document {number} has token {shown(wrong)}, and the vocabulary has {case.model.vocab_size}; --set "
                "vocab_size=N makes it larger, or take the data of this model"
            )
        if not tokens:
            continue  # GPTDataset takes nothing of it, either
        if case.training.data_shape in WITH_PADDING:
            tokens, length = tokens[: case.seq_length + 1], 1
        else:
            tokens, length = (*tokens, *(() if tokens[-1] == END else (END,))), 0
        found.append(tokens)
        left -= length or len(tokens)
        if left <= 0:
            return tuple(found)
    few = many(left, "document" if case.training.data_shape in WITH_PADDING else "token")
    raise UsageError(
        f"{path} has {few} too few for {many(sequences, 'sequence')} of {case.seq_length}; take fewer, or shorter ones"
    )


def stream(case: Case, documents: tuple[Document, ...], step: int) -> list[list[int]]:
    """The tokens of one step, counted from 0: each sequence with the token behind it, which its last one predicts."""
    every = [token for document in documents for token in document]
    starts = range(step * case.batch_size, (step + 1) * case.batch_size)
    return [every[start * case.seq_length : (start + 1) * case.seq_length + 1] for start in starts]


def _documents(path: Path, encode: Encode) -> Iterator[Document]:
    """The documents of a file, as they are read. Raises UsageError if the index is meant and not named."""
    index = path.with_name(f"{path.stem if path.suffix == '.bin' else path.name}.idx")
    if path.suffix == ".bin" or (not path.exists() and index.exists()):
        raise UsageError(f"--data {path}: Megatron's indexed data set is named by its index; --data {index} works")
    return _indexed(path) if path.suffix == ".idx" else _lines(path, encode)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file. Raises UsageError."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"{path} is no regular file; {_WORKS}")
            yield file
    except OSError as error:
        raise UsageError(f"--data {path}: cannot be read ({error.strerror}); {_WORKS}") from None


def _lines(path: Path, encode: Encode) -> Iterator[Document]:
    """One document a line: of .txt its text, else JSON: token ids, or an object with them under one of KEYS, or with TEXT."""
    with _opened(path) as file:
        number = 0
        while line := file.readline(_LONGEST_LINE + 1):
            number += 1
            if len(line) > _LONGEST_LINE:
                raise UsageError(f"{path}, line {number} has more than {_LONGEST_LINE} bytes, and no more are read; {_WORKS}")
            source = f"{path}, line {number}"
            if number == 1:
                line = line.removeprefix(BOM_UTF8)
            if line.strip() and path.suffix == ".txt":
                yield encode(_text(line, source))
            elif line.strip():
                yield _ids(parsed(line, source, _LONGEST_LINE, _WORKS), source, encode)


def _text(line: bytes, source: str) -> str:
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise UsageError(f"{source} is no UTF-8; {_WORKS}") from None


def _ids(value: object, source: str, encode: Encode) -> Document:
    """Token ids in a value of JSON, or those of its text. Raises UsageError."""
    if isinstance(value, dict):
        names = [name for name in KEYS if name in value]
        if not names and isinstance(value.get(TEXT), str):
            return encode(value[TEXT])
        if not names:
            raise UsageError(f"{source} has none of {', '.join(KEYS)} and {TEXT}; {_WORKS}")
        value = value[names[0]]
    if not isinstance(value, list) or any(type(token) is not int for token in value):
        raise UsageError(f"{source} is no list of token ids; {_WORKS}")
    return tuple(value)


def _indexed(path: Path) -> Iterator[Document]:
    """The documents of Megatron's indexed data set; several of its sequences may make one."""
    with _opened(path) as index, _opened(path.with_suffix(".bin")) as data:
        size = os.fstat(index.fileno()).st_size
        header = index.read(_HEADER.size)
        if len(header) < _HEADER.size or header[: len(_MAGIC)] != _MAGIC:
            raise UsageError(f"{path} is no index of Megatron's data set; {_WORKS}")
        _, version, kind, sequences, documents = _HEADER.unpack(header)
        needs = _HEADER.size + 12 * sequences + 8 * documents
        if version != 1 or kind not in _TYPES or max(sequences, documents) > _MOST_DOCUMENTS:
            raise UsageError(f"{path} has version {version} and type {kind}; version 1 of whole numbers can be read")
        if size < needs:
            raise UsageError(f"{path} has {many(size, 'byte')} of {needs}; copy it again with its .bin")
        _is_of(data, index, sequences, _TYPES[kind], path)
        ends = _numbers(index, "q", _HEADER.size + 12 * sequences, documents, path)
        for first, last in pairwise(ends):
            if not 0 <= first <= last <= sequences:
                raise UsageError(f"{path}: a document has the sequences {first} to {last} of {sequences}; {_WORKS}")
            lengths = _numbers(index, "i", _HEADER.size + 4 * first, last - first, path)
            places = _numbers(index, "q", _HEADER.size + 4 * sequences + 8 * first, last - first, path)
            parts = (_numbers(data, _TYPES[kind], *part, path) for part in zip(places, lengths, strict=True))
            yield tuple(token for part in parts for token in part)


def _is_of(data: BinaryIO, index: BinaryIO, sequences: int, kind: str, path: Path) -> None:
    """The .bin ends where its index says that the last sequence does. Raises UsageError.

    One of another type would give other tokens, all of which may be within the vocabulary.
    """
    if not sequences:
        return
    (length,) = _numbers(index, "i", _HEADER.size + 4 * (sequences - 1), 1, path)
    (place,) = _numbers(index, "q", _HEADER.size + 12 * sequences - 8, 1, path)
    size, wanted = os.fstat(data.fileno()).st_size, place + length * array(kind).itemsize
    if size != wanted:
        raise UsageError(f"{path} describes {many(wanted, 'byte')} and its .bin has {size}; take two files of one data set")


def _numbers(file: BinaryIO, kind: str, start: int, count: int, path: Path) -> array[int]:
    """`count` numbers at a place of a file. Raises UsageError if they are not there."""
    found = array(kind)
    bytes_of = count * found.itemsize
    if start < 0 or count < 0 or start + bytes_of > os.fstat(file.fileno()).st_size:
        raise UsageError(
            f"{path}: {many(count, 'number')} at byte {start} {'lies' if count == 1 else 'lie'} outside of the file; {_WORKS}"
        )
    file.seek(start)
    found.frombytes(file.read(bytes_of))
    return found
