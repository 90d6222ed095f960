"""Files that may come from anybody: read within a limit, or refused in one sentence. No torch."""

from __future__ import annotations

import io
import json
import os
import stat
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from validation.case.errors import UsageError
from validation.case.plural import many

_SHOWN = 120
"""Characters of a stranger's text that a sentence repeats."""
_LONGEST = 4000
"""Characters of a sentence."""
_DIGITS = 40
"""Of a number in JSON. The largest that a config.json needs has 19."""
_KINDS = {"list": "a list", "dict": "an object", "tuple": "a tuple"}
_OPENS = b",:[{"
"""Each value in JSON follows one of these."""


def shown(value: object) -> str:
    """A stranger's text or number as a sentence may repeat it: short, on one line, without control characters."""
    text = value if isinstance(value, str) else _literal(value)
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return one_line(text)


_LISTED = 3


def listed(names: Iterable[object]) -> str:
    """The first of some names, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(map(shown, found[:_LISTED])) + more


def one_line(text: str) -> str:
    """A sentence with a stranger's names in it, as a terminal may show it: on one line, without control characters."""
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return "".join(_escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()


def quoted(value: object) -> str:
    """The same with quotes around a text, as Python writes it."""
    return f"'{shown(value)}'" if isinstance(value, str) else shown(value)


def _literal(value: object) -> str:
    """Numbers and such as Python writes them; of what may be nested without end, or have any number of digits, its kind."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 4 * _DIGITS:
        return f"a number of {many(value.bit_length(), 'bit')}"
    if value is None or isinstance(value, (bool, int, float, bytes)):
        return repr(value)
    return _KINDS.get(type(value).__name__, type(value).__name__)


def read_bytes(path: Path, most: int, remedy: str) -> bytes:
    """A regular file of at most `most` bytes (a link to one is one). Raises UsageError, which ends with `remedy`."""
    try:
        # Whoever opens a pipe waits for its other end.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(number, "rb", buffering=0) as file:
            about = os.fstat(number)
            if not stat.S_ISREG(about.st_mode):
                raise UsageError(f"{path} is no regular file; {remedy}")
            if about.st_size > most:
                raise UsageError(f"{path} has {many(about.st_size, 'byte')}, and no more than {most} are read; {remedy}")
            # It may grow meanwhile.
            data = file.read(most + 1) or b""
            while len(data) <= most and (more := file.read(most + 1 - len(data))):
                data += more
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if len(data) > most:
        raise UsageError(f"{path} has more than {most} bytes, and no more are read; {remedy}")
    return data


def read_lines(path: Path, most: int, remedy: str) -> Iterator[bytes]:
    """The lines of such a file that are not blank, one at a time and without their ends. Raises UsageError."""
    return filter(None, map(bytes.strip, io.BytesIO(read_bytes(path, most, remedy))))


def read_json(path: Path, most: int, values: int, remedy: str) -> Any:
    """The JSON value of a file of at most `most` bytes, with at most about `values` values in it. Raises UsageError.

    Refuses what readers understand in different ways: names that are there twice, NaN and Infinity, and any encoding but UTF-8.
    """
    return parsed(read_bytes(path, most, remedy), str(path), values, remedy)


def parsed(data: bytes, source: str, values: int, remedy: str) -> Any:
    """The JSON value in these bytes, which are the file's or its header's that `source` names. Raises UsageError."""
    if data.startswith(BOM_UTF8):
        raise UsageError(f"{source} begins with a byte order mark, which JSON does not have; save it as UTF-8 without BOM")
    if sum(map(data.count, _OPENS)) > values:
        raise UsageError(f"{source} has more than {values} values; {remedy}")
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, parse_int=_whole, parse_float=_float
        )
    except RecursionError:
        said = "it is nested too deep"
    except UnicodeDecodeError as error:
        said = f"byte {error.start} is not UTF-8"
    except ValueError as error:
        said = shown(str(error))
    raise UsageError(f"{source} is not JSON ({said}); {remedy}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{shown(name)} is there twice")
    return found


def _constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {many(len(text), 'digit')}")
    return int(text)


def _float(text: str) -> float:
    found = float(text)
    if found in (float("inf"), float("-inf")):
        raise ValueError(f"{shown(text)} is too large a number")
    return found
