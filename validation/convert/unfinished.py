"""The folder that a checkpoint is written into: under another name until it is whole, with a list of what is done.

`DIR.unfinished` becomes `DIR` in one step. A part is written to `NAME.part`, renamed, and then noted in `DIR.unfinished/.done`
with its size and checksum; a conversion that is started again goes on after the parts that are noted and still whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from validation.case import writing
from validation.case.errors import EnvironmentMissing, UsageError
from validation.case.plural import many
from validation.convert.checksum import crc32

MANIFEST, CHECKSUM = "plumbline.json", "crc32"
_SUFFIX, _DONE, _PLAN = ".unfinished", ".done", "plan.json"
PATIENCE = 10.0
"""Seconds in which the processes of a conversion that was killed have let go of its folder."""
_READ = 8 << 20
_WEIGHTS = (".safetensors", ".distcp", ".pt")


class Unfinished:
    """The unfinished folder of one output folder, locked while this process works on it."""

    def __init__(self, place: Path, plan: Mapping[str, Any]) -> None:
        self.place, self.folder = place, place.with_name(place.name + _SUFFIX)
        self._done, self._plan = self.folder / _DONE, plan
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        self._done.mkdir(parents=True, exist_ok=True)
        self._lock = (self._done / "lock").open("w")
        end = time.monotonic() + PATIENCE
        while not _locked(self._lock):
            if time.monotonic() > end:
                raise UsageError(f"{self.folder}: another conversion is writing it; wait for it or choose another --save")
            time.sleep(0.1)
        for path in self.folder.rglob("*.part"):
            path.unlink()  # of a process that was killed
        plan = json.loads(json.dumps(self._plan))
        if _read(self._done / _PLAN) != plan:
            self._empty()
            write_json(self._done / _PLAN, plan)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def _empty(self) -> None:
        """What another plan left is of no use: other input, other options, or none of ours."""
        for path in self.folder.iterdir():
            if path.is_dir() and path != self._done:
                shutil.rmtree(path)
            elif path != self._done:
                path.unlink()
        for path in self._done.glob("*.json"):
            path.unlink()

    def note(self, name: str, crc32: int, known: Any) -> dict[str, Any]:
        """A part is whole: its size and checksum, and what its format needs to know of it."""
        found = {"bytes": (self.folder / name).stat().st_size, CHECKSUM: f"{crc32:08x}", "known": known}
        write_json(self._done / f"{name.replace('/', '+')}.json", found)
        return found

    def noted(self, name: str) -> dict[str, Any] | None:
        """What was noted of a part, if its file still is what it was."""
        found = _read(self._done / f"{name.replace('/', '+')}.json")
        path = self.folder / name
        if not isinstance(found, dict) or not path.is_file() or path.stat().st_size != found["bytes"]:
            return None
        return found if f"{crc32_of(path):08x}" == found[CHECKSUM] else None

    def has(self, name: str) -> bool:
        """Whether a part was noted; whether it still is whole is another question."""
        return (self._done / f"{name.replace('/', '+')}.json").is_file()

    def publish(self, manifest: dict[str, Any]) -> None:
        """All is written: list every file with size and checksum, and give the folder its name."""
        shutil.rmtree(self._done)
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        known: dict[str, Any] = manifest.pop("parts")
        listed = {}
        for path in files:
            name = str(path.relative_to(self.folder))
            listed[name] = {key: known[name][key] for key in ("bytes", CHECKSUM)} if name in known else _facts(path)
        write_json(self.folder / MANIFEST, {**manifest, "files": listed})
        for folder in {path.parent for path in files} | {self.folder}:
            sync(folder)
        if self.place.is_dir():
            self.place.rmdir()  # it was empty when this began
        self.folder.rename(self.place)
        sync(self.place.parent)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _facts(path: Path) -> dict[str, Any]:
    sync(path)
    return {"bytes": path.stat().st_size, CHECKSUM: f"{crc32_of(path):08x}"}


def crc32_of(path: Path) -> int:
    """The crc32 of a file."""
    crc, buffer = 0, bytearray(_READ)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc = crc32(view[:count], crc)
    return crc


def sync(path: Path) -> None:
    """Until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write the file in one step."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder that was written here, with its weights there in their sizes; None for another's.

    Raises UsageError where a file is not.
    """
    found = _read(folder / MANIFEST)
    if not isinstance(found, dict) or "files" not in found:
        return None
    for name, facts in found["files"].items():
        path = folder / name
        if path.suffix not in _WEIGHTS and path.name != ".metadata":
            continue  # config.json and what lies beside it may be changed
        size = path.stat().st_size if path.is_file() else None
        if size != facts["bytes"]:
            how = "is not there" if size is None else f"has {many(size, 'byte')}"
            raise UsageError(f"{folder}: {name} {how} and {MANIFEST} says {facts['bytes']}; convert or copy the folder again")
    return found


def check_places(output: Path, *inputs: Path) -> None:
    """Raises UsageError for an output folder that is there already, or that lies in the input or around it."""
    place = output.resolve()
    for path in (found.resolve() for found in inputs):
        if place == path or path in place.parents or place in path.parents:
            raise UsageError(f"--save {output} and {path} lie in each other; choose a folder of its own for the output")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"--save {output}: exists already; choose another folder, or remove it first")
    writing.check_folder(output, "--save")


def check_room(folder: Path, needed: int) -> None:
    """Raises EnvironmentMissing where the disk has less than `needed` bytes left."""
    above = next(found for found in (folder, *folder.resolve().parents) if found.exists())
    free = shutil.disk_usage(above).free
    if free < needed:
        raise EnvironmentMissing(
            f"{folder}: {needed / (1 << 30):.1f} GiB are needed and {free / (1 << 30):.1f} GiB are free there; make room or "
            "choose another --save"
        )


@contextlib.contextmanager
def full_disk(folder: Path, needed: int) -> Iterator[None]:
    """Within it torch.save, which says nothing of it, raises the OSError of a disk that has no `needed` bytes left."""
    try:
        yield
    except RuntimeError as error:
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Within it a disk that is full, or fails, ends with a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            raise
        raise EnvironmentMissing(
            f"{folder}: {os.strerror(error.errno)}; nothing was left under the output's name, and what is done stays in "
            f"{folder.name}: make room and start again to go on, or delete it"
        ) from error
