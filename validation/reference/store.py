"""The store: a reference is computed once and kept as a folder of safetensors, shared by every layout.

The folder's name is a digest of all that the reference depends on, so that nothing stale can be read. It is written under
another name and renamed when whole: a half-written reference is never taken for one.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from validation.case.case import Case
from validation.case.training import ADAM, BALANCE_COEFFICIENT


def key(case: Case) -> str:
    """A digest of what the reference of `case` depends on.

    Layout, implementation and transport are not in it, nor options of a step that must not change what is computed.
    """
    depends = {
        "model": case.model.as_dict(),
        "precision": case.precision,
        "seed": case.seed,
        "device": "cpu" if case.on_cpu else "cuda",
        "batch": [case.batch_size, case.seq_length],
        "layers": case.layers,
        "isolated": case.isolated,
        "training": [case.training.steps, case.training.loss, case.training.balancing, asdict(ADAM), BALANCE_COEFFICIENT],
        "stream": case.training.stream,
        "fp8": case.training.fp8,
        "micro_batch": case.micro_batch_size if case.training.loss == "mean" or case.training.balancing == "aux_loss" else None,
        "checkpoint": _checkpoint_stamp(case.hf_model_path),
        "versions": _versions(),
        "source": _source_digest(),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:24]


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


@dataclass(frozen=True)
class Reference:
    """A stored reference."""

    folder: Path

    @property
    def probes(self) -> Path:
        """Forward probes by name."""
        return self.folder / "probes.safetensors"

    @property
    def probe_gradients(self) -> Path:
        """The gradients that reach the probes, by the probes' names."""
        return self.folder / "probe_gradients.safetensors"

    @property
    def gradients(self) -> Path:
        """Parameter gradients, under the checkpoint's names with the experts stacked."""
        return self.folder / "gradients.safetensors"

    @property
    def routing(self) -> Path:
        """In the lower precisions the choices that every run goes on with, and their margins (reference.routing)."""
        return self.folder / "routing.safetensors"

    @property
    def steps(self) -> Path:
        """What each optimizer step leaves, by the keys of validation.case.steps."""
        return self.folder / "steps.safetensors"

    @property
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


def find(case: Case, home: Path) -> Reference | None:
    """The stored reference of `case`, or None. Files whose sizes are not those written make it none."""
    reference = Reference(home / "references" / key(case))
    try:
        sizes = reference.facts()["sizes"]
        whole = all((reference.folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return None
    return reference if whole else None


def keep(case: Case, home: Path, make: Callable[[Path], dict[str, Any]]) -> Reference:
    """Let `make` write a reference into a folder (it returns the facts) and put it in its place in one step."""
    place = home / "references" / key(case)
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=place.parent))
    try:
        facts = make(unfinished)
        facts["sizes"] = {path.name: path.stat().st_size for path in unfinished.iterdir()}
        (unfinished / "reference.json").write_text(json.dumps(facts, indent=1))
        shutil.rmtree(place, ignore_errors=True)
        unfinished.rename(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Reference(place)
