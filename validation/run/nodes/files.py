"""Files on their way from node to node: whole under their own name, or not there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

from validation.run.nodes.channel import Lost, Message

_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*")


class Incoming:
    """Takes files in, one after the other."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._path, self._left = Path(), 0

    def begin(self, message: Message, folder: Path, allowed: re.Pattern[str] = _NAME) -> None:
        """A file was announced. Raises Lost for a name that may lead elsewhere."""
        name, size = str(message.get("name")), message.get("size")
        if not allowed.fullmatch(name) or not isinstance(size, int) or size < 0 or self._file is not None:
            raise Lost("it sends a file that nobody asked for")
        self._path, self._left = folder / name, size
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._part.open("wb")
        self._end_if_whole()

    @property
    def _part(self) -> Path:
        return self._path.with_name(f".{self._path.name}.part")

    def piece(self, data: bytes) -> None:
        """A piece of it. Raises Lost for one that belongs to no file."""
        if self._file is None or len(data) > self._left:
            raise Lost("it sends a file that nobody asked for")
        self._file.write(data)
        self._left -= len(data)
        self._end_if_whole()

    def _end_if_whole(self) -> None:
        if self._left == 0 and self._file is not None:
            self._file.close()
            self._file = None
            self._part.rename(self._path)

    def give_up(self) -> None:
        """Nothing more comes: what has begun is dropped."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._part.unlink(missing_ok=True)
