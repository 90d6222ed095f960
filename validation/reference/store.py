"""The store: a reference is computed once and kept as a folder of safetensors, shared by every layout.

The folder's name begins with a digest of all that the reference depends on, so that nothing stale can be read. It is written
under another name and renamed when whole: a half-written reference is never taken for one. Then it does not change: another of
the same digest gets a folder of its own, and the newest counts. Who finds one uses it until the process ends, or lets go of it
(validation.cache.locks): until then nobody deletes it.

What was written is sealed: `seal.json` has the size and the digest of every file. A reference with other files is none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from validation.cache import forget, locks
from validation.case.case import Case
from validation.case.data import FULL, HAVE_PADDING
from validation.case.depth import FORWARD, WEIGHTS, serving
from validation.case.inference import infers
from validation.case.optimizers import Rule, counts_zeros
from validation.case.schedule import Schedule
from validation.case.vocabulary import MASKED, is_masked
from validation.machine import cores
from validation.reference.divisor import by_targets, definition


def key(case: Case) -> str:
    """A digest of what the reference of `case` depends on.

    Layout, implementation and transport are not in it, nor options of a step that must not change what is computed.
    """
    steps = 0 if case.upto else case.training.steps
    depends = {
        "model": case.model.as_dict(),
        "precision": case.precision,
        "seed": case.seed,
        "device": "cpu" if case.on_cpu else "cuda",
        "batch": [case.batch_size, case.seq_length],
        "layers": case.layers,
        "isolated": case.isolated,
        "training": [
            steps,
            case.training.loss,
            case.training.balancing,
            asdict(case.training.adam),
            asdict(Rule.of(case.training)),
            counts_zeros(case.training),
            case.rounds_sums,
            case.training.balance_coefficient,
            case.training.z_coefficient,
            case.training.mtp_scale,
        ],
        "schedule": asdict(Schedule.of(case.training)) if steps else None,
        "stream": case.training.stream,
        "fp8": case.training.fp8,
        "micro_batch": case.micro_batch_size if _by_micro_batch(case) else None,
        "mtp_loss": definition(case) if case.model.mtp_layers else None,
        "checkpoint": _checkpoint_stamp(case.hf_model_path),
        "versions": _versions(),
        "source": _source_digest(),
    }
    if case.in_lockstep:
        depends["lockstep"] = True
    if case.upto in (WEIGHTS, FORWARD):
        depends["upto"] = case.upto
    if case.data:
        depends["data"] = case.data_digest
    if case.training.data_shape != FULL:
        depends["data_shape"] = case.training.data_shape
    if is_masked(case):
        depends["padding_logits"] = MASKED
    if infers(case):
        depends["inference"] = case.training.inference
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:24]


def _by_micro_batch(case: Case) -> bool:
    """Whether what is computed depends on which sequences are a micro-batch."""
    training = case.training
    padded_means = training.data_shape in HAVE_PADDING and (training.balancing == "z_loss" or bool(training.z_coefficient))
    return training.loss == "mean" or training.balancing == "aux_loss" or padded_means or by_targets(case)


def _checkpoint_stamp(folder: str | None) -> list[Any]:
    if folder is None:
        return []
    files = sorted(path for path in Path(folder).iterdir() if path.suffix in (".safetensors", ".json"))
    return [str(Path(folder).resolve()), *([path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files)]


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers", "safetensors")}


@functools.cache
def _source_digest() -> str:
    """Of the modules that make the reference: when one changes, what it made before is not taken for what it makes now."""
    rooms = [Path(__file__).parent, Path(__file__).parents[1] / "compare", Path(__file__).parents[1] / "case"]
    digest = hashlib.sha256()
    for path in sorted(path for room in rooms for path in room.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


UPDATED, ANSWERS = OF_INFERENCE = "updated.safetensors", "answers.safetensors"


@dataclass(frozen=True)
class Reference:
    """A stored reference."""

    folder: Path

    @functools.cached_property
    def probes(self) -> Path:
        """Forward probes by name."""
        return self.folder / "probes.safetensors"

    @functools.cached_property
    def probe_gradients(self) -> Path:
        """The gradients that reach the probes, by the probes' names."""
        return self.folder / "probe_gradients.safetensors"

    @functools.cached_property
    def gradients(self) -> Path:
        """Parameter gradients, under the checkpoint's names with the experts stacked."""
        return self.folder / "gradients.safetensors"

    @functools.cached_property
    def routing(self) -> Path:
        """In the lower precisions the choices that every run goes on with, and their margins (reference.routing)."""
        return self.folder / "routing.safetensors"

    @functools.cached_property
    def steps(self) -> Path:
        """What each optimizer step leaves, by the keys of validation.case.steps."""
        return self.folder / "steps.safetensors"

    @functools.cached_property
    def updated(self) -> Path:
        """The second weights of a case in mode inference, as a preset's are stored."""
        return self.folder / UPDATED

    @functools.cached_property
    def answers(self) -> Path:
        """What HuggingFace generates in mode inference, and by how much it prefers each token."""
        return self.folder / ANSWERS

    @functools.cached_property
    def batch(self) -> Path:
        """Tokens, labels and loss mask of each step."""
        return self.folder / "batch.safetensors"

    def weights(self, case: Case) -> Path:
        """The checkpoint that both models are loaded from."""
        return Path(case.hf_model_path) if case.hf_model_path else self.folder / "weights.safetensors"

    def facts(self) -> dict[str, Any]:
        """What is known of it: weights digest, seconds it took, how it was computed."""
        facts: dict[str, Any] = json.loads((self.folder / "reference.json").read_text())
        return facts


_SEAL = "seal.json"
_ALWAYS_READ = 1 << 30
"""Bytes of a reference up to which it is read whole before it is used. A larger one is read if a file's times have changed."""
_PART, _AT_ONCE = 256 << 20, 1 << 20
"""Bytes of a file that have a digest of their own, and of these that are in memory."""
_READ: set[Path] = set()
"""References that this process has seen to be whole."""


def find(case: Case, home: Path) -> Reference | None:
    """The stored reference of `case`, in use from now on, or None. One that is not as it was written is none.

    The newest counts. Older ones are no longer in use here.
    """
    folders = forget.references_of(key(case), home)
    for folder in folders:
        if locks.use(folder) and _is_whole(folder):
            _let_go(other for other in folders if other != folder)
            return Reference(folder)
    _let_go(folders)
    return None


def find_serving(case: Case, home: Path) -> Reference | None:
    """A stored reference that has all that the case needs: its own, or one that goes further."""
    return next(filter(None, (find(one, home) for one in serving(case))), None)


def find_any(case: Case, home: Path) -> Reference | None:
    """A stored reference of the case, however far it goes."""
    return find_serving(replace(case, upto=WEIGHTS), home)


def _let_go(folders: Iterable[Path]) -> None:
    for folder in folders:
        locks.let_go(folder)


def keep(case: Case, home: Path, make: Callable[[Path], dict[str, Any]]) -> Reference:
    """Let `make` write a reference into a folder (it returns the facts) and put it in its place in one step.

    It is in use from now on, and replaces others of the same case.
    """

    def fill(folder: Path) -> dict[str, str]:
        facts = make(folder)
        (folder / "reference.json").write_text(json.dumps(facts, indent=1))
        return _digests(folder)

    return _placed(key(case), home, fill)


def _placed(name: str, home: Path, fill: Callable[[Path], dict[str, str]]) -> Reference:
    """Let `fill` write the files of a key into a folder (it returns their digests), seal it and put it in its place."""
    parent = home / forget.REFERENCES
    parent.mkdir(parents=True, exist_ok=True)
    unfinished = locks.new_folder(parent, forget.UNFINISHED)
    try:
        _seal(unfinished, fill(unfinished))
        place = parent / f"{name}-{secrets.token_hex(4)}"
        locks.renamed(unfinished, place)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        locks.let_go(unfinished)
        raise
    return Reference(place)


def contents(folder: Path) -> dict[str, str]:
    """The digest of every file of a reference by its name, as it was sealed; read from the files if it was not."""
    try:
        sealed = json.loads((folder / _SEAL).read_text())
        return {name: str(about["digest"]) for name, about in sealed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _digests(folder)


def find_same(wanted: str, digests: dict[str, str], home: Path, also: Path) -> Reference | None:
    """A stored reference of the key `wanted` with exactly these files, or what lies in `also`; in use from now on, or None."""
    for folder in (also, *forget.references_of(wanted, home)):
        if (folder / _SEAL).is_file() and contents(folder) == digests and locks.use(folder) and _is_whole(folder):
            return Reference(folder)
        locks.let_go(folder)
    return None


def take(wanted: str, digests: dict[str, str], home: Path, fill: Callable[[Path], None]) -> Reference:
    """Let `fill` bring the files of another machine's reference, and store it as `keep` does. Raises ValueError, and OSError.

    A ValueError says that what has come is not what the other machine has.
    """

    def filled(folder: Path) -> dict[str, str]:
        fill(folder)
        if (found := _digests(folder)) != digests:
            raise ValueError("the files that have come are not those that were sent")
        return found

    return _placed(wanted, home, filled)


def _is_whole(folder: Path) -> bool:
    """Whether every file is as it was sealed. Sizes are looked at each time, digests once in a process."""
    try:
        sealed = json.loads((folder / _SEAL).read_text())
        found = {name: _size_and_times(folder / name) for name in sealed}
        if not sealed or any(found[name][0] != sealed[name]["times"][0] for name in sealed):
            return False
        large = sum(size for size, *_ in found.values()) > _ALWAYS_READ
        untouched = all(found[name] == sealed[name]["times"] for name in sealed)
        if folder not in _READ and not (large and untouched):
            digests = _digests(folder)
            if any(digests[name] != sealed[name]["digest"] for name in sealed):
                return False
            if not untouched:
                with contextlib.suppress(OSError):  # then it is read again the next time
                    _seal(folder, digests)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return False
    _READ.add(folder)
    return True


def _seal(folder: Path, digests: dict[str, str]) -> None:
    """Write down how the files are. Where a seal is replaced, copying has changed the times and nothing else."""
    sealed = {name: {"digest": digest, "times": _size_and_times(folder / name)} for name, digest in digests.items()}
    unfinished = folder / f".{_SEAL}-{os.getpid()}"
    unfinished.write_text(json.dumps(sealed, indent=1))
    unfinished.rename(folder / _SEAL)


def _size_and_times(path: Path) -> list[int]:
    """What changes where somebody writes to the file."""
    told = path.stat()
    return [told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino]


def _digests(folder: Path) -> dict[str, str]:
    """Of every file of a reference by its name: SHA-256, of a large one that of its parts' digests in hexadecimal."""
    names = sorted(path.name for path in folder.iterdir() if path.name != locks.LOCK and not path.name.startswith((_SEAL, ".")))
    with ThreadPoolExecutor(cores()) as pool:
        begun = {name: [pool.submit(_digest, folder / name, place) for place in _parts(folder / name)] for name in names}
        found = {name: [part.result() for part in parts] for name, parts in begun.items()}
    return {name: one[0] if len(one) == 1 else hashlib.sha256("".join(one).encode()).hexdigest() for name, one in found.items()}


def _parts(path: Path) -> range:
    """Where each begins. A core has read a thousand MB in a second, and what optimizer steps leave is 11 GB for mini."""
    return range(0, max(1, path.stat().st_size), _PART)


def _digest(path: Path, place: int) -> str:
    """Of the part of a file that begins there."""
    found, room = hashlib.sha256(), memoryview(bytearray(_AT_ONCE))
    with path.open("rb", buffering=0) as file:
        file.seek(place)
        left = _PART
        while left and (count := file.readinto(room[: min(left, len(room))])):
            found.update(room[:count])
            left -= count
    return found.hexdigest()
