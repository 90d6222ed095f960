"""What a case in lockstep keeps of each step: what it hands on and what it has found. A run that was cut goes on from there.

A step is a stage's way forward or back. It leaves a safetensors file, for the steps behind it, and a JSON file that says what
it has found and what is in the other. Both are written while the next step computes. Each has its digest: what is not as it
was written is computed again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from validation.cache import locks
from validation.compare.precision import as_stored
from validation.compare.sliced import SlicedFile

Step = tuple[str, int]
"""`forward` or `backward`, and the stage."""
FORWARD, BACKWARD = "forward", "backward"


def plan(stages: Sequence[int]) -> tuple[Step, ...]:
    """Every step in its order. The last stage goes forward and back at once."""
    return (*((FORWARD, stage) for stage in stages[:-1]), *((BACKWARD, stage) for stage in reversed(stages)))


class KeptSteps:
    """The steps of one case in one folder (validation.reference.kept.Kept for the step that is being computed)."""

    def __init__(self, folder: Path, key: str, steps: tuple[Step, ...], device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.steps = folder, steps
        self._key, self._device = key, device
        self._turn = (folder / "turn").open("w")
        self._found: list[dict[str, Any]] = []
        self._at: dict[str, Path] = {}
        self._new: dict[str, torch.Tensor] = {}
        self._recent: dict[str, torch.Tensor] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="kept")
        self._writing: Future[None] | None = None
        self._being_written: Path | None = None
        self.damaged = ""
        """The first step that was there and is computed again, because a file of it is not as it was written."""

    @classmethod
    def opened(cls, folder: Path, key: str, steps: tuple[Step, ...], device: torch.device) -> KeptSteps | None:
        """Those of an earlier run with the same key, as far as they are whole. None if another process uses the folder."""
        found = cls(folder, key, steps, device)
        try:
            fcntl.flock(found._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return None
        if not locks.use(folder):  # it is being forgotten
            return None
        found._take_up()
        return found

    @property
    def done(self) -> int:
        """How many steps are done."""
        return len(self._found)

    def findings(self) -> list[dict[str, Any]]:
        """What every step has found, in their order."""
        return [found["findings"] for found in self._found]

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Have the step hand a tensor on."""
        self._new[name] = tensor.detach()

    def get(self, name: str) -> torch.Tensor:
        """A tensor that was handed on; a copy. Raises KeyError."""
        with as_stored():
            for held in (self._new, self._recent):
                if name in held:
                    return held[name].clone()
            path = self._at[name]
            if path == self._being_written:
                self._written()
            return SlicedFile(path, self._device).read(name)

    def end(self, findings: dict[str, Any]) -> None:
        """The step is done. Raises OSError if what the one before has left could not be written."""
        step = self.steps[self.done]
        with as_stored():
            tensors = {name: tensor.contiguous().cpu() for name, tensor in self._new.items()}
        self._recent, self._new = self._new, {}
        self._written()
        self._at.update(dict.fromkeys(tensors, self._path(step, "safetensors")))
        self._found.append({"key": self._key, "names": sorted(tensors), "findings": findings})
        self._being_written = self._path(step, "safetensors")
        self._writing = self._writer.submit(self._write, step, tensors, self._found[-1])

    def close(self) -> None:
        """Wait for what is being written, and leave it for the next run. Raises OSError if it could not be."""
        try:
            self._written()
        finally:
            self._writer.shutdown()
            self._turn.close()
            locks.let_go(self.folder)

    def _take_up(self) -> None:
        for step in self.steps:
            found = self._read(step)
            if found is None:
                break
            self._found.append(found)
        while (bad := self._damaged()) is not None:
            del self._found[bad:]
        left = [step for step in self.steps[self.done :] if self._path(step, "json").exists()]
        self.damaged = _named(self.steps[self.done]) if left else ""
        for step in self.steps[self.done :]:
            for kind in ("json", "safetensors"):
                self._path(step, kind).unlink(missing_ok=True)
        for step, found in zip(self.steps, self._found, strict=False):
            self._at.update(dict.fromkeys(found["names"], self._path(step, "safetensors")))

    def _damaged(self) -> int | None:
        """The first step whose tensors are still needed and are not as they were written."""
        done = self.steps[: self.done]
        for number, step in enumerate(done):
            if self._needed(step, done) and self._found[number]["digest"] != _digest(self._path(step, "safetensors")):
                return number
        return None

    def _needed(self, step: Step, done: Sequence[Step]) -> bool:
        """Whether a step to come takes what this one has handed on. What the last stage has left, the first takes, too."""
        direction, stage = step
        if direction == FORWARD:
            return (BACKWARD, stage) not in done
        return stage == self.steps[-1][1] or (BACKWARD, stage - 1) not in done or stage == self._last

    @property
    def _last(self) -> int:
        return next(stage for direction, stage in self.steps if direction == BACKWARD)

    def _read(self, step: Step) -> dict[str, Any] | None:
        try:
            said = json.loads(self._path(step, "json").read_text())
            if said["digest"] != hashlib.sha256(said["body"].encode()).hexdigest():
                return None
            found: dict[str, Any] = json.loads(said["body"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return found if found["key"] == self._key else None

    def _write(self, step: Step, tensors: dict[str, torch.Tensor], found: dict[str, Any]) -> None:
        path = self._path(step, "safetensors")
        _whole(path, lambda part: save_file(tensors, part))
        found["digest"] = _digest(path)
        body = json.dumps(found)
        text = json.dumps({"digest": hashlib.sha256(body.encode()).hexdigest(), "body": body})
        _whole(self._path(step, "json"), lambda part: part.write_text(text))
        done = self.steps[: self.steps.index(step) + 1]
        for before in done:
            if not self._needed(before, done):
                self._path(before, "safetensors").unlink(missing_ok=True)

    def _written(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _path(self, step: Step, kind: str) -> Path:
        return self.folder / f"{self.steps.index(step):03d}-{_named(step)}.{kind}"


def _named(step: Step) -> str:
    return f"{step[0]}-{step[1]}"


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file under its name whole, or not at all."""
    part = path.with_name(f".{path.name}")
    write(part)
    os.replace(part, path)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
