"""Reference and candidate in lockstep: truth, floor and candidate of one layer after the other, in one process on one device.

The candidate's tensors of a layer are compared with the truth's where both were computed. Nothing is stored but what passes the
layers' borders, from which each layer is computed again on the way back. Memory and disk that this takes do not grow with the
layers, those borders aside.
"""

from __future__ import annotations

import gc
import importlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from validation.candidate import build
from validation.candidate.compare import declared
from validation.candidate.kept_steps import FORWARD, KeptSteps, Step
from validation.candidate.place import device
from validation.candidate.recorder import Recorder
from validation.candidate.stream import Plugin, StreamedRank
from validation.case.case import Case
from validation.case.parameters import Parameter
from validation.compare.piece import Box, slices
from validation.compare.precision import as_stored
from validation.compare.sliced import SlicedFile
from validation.reference import ledger as ledgers
from validation.reference.batch import Batch
from validation.reference.floor import Floor
from validation.reference.ledger import Ledger
from validation.reference.sources import open_weights
from validation.reference.store import Reference


@dataclass(frozen=True)
class Found:
    """What every step has found: the recorder's part of a rank's report, facts of the reference, and bytes of parameters.

    `steps` says of each step how long it took, and the most memory that its two sides had.
    """

    report: dict[str, Any]
    reference: dict[str, Any]
    held: int
    steps: list[dict[str, Any]]


class Truth:
    """The truth's tensors of one stage, in the place of a stored reference's files."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)

    def add(self, kind: str, name: str, tensor: torch.Tensor) -> None:
        """Keep one of a kind."""
        self._kinds[kind][name] = tensor

    def of(self, kind: str) -> Held:
        """All of a kind."""
        return Held(self._kinds[kind])

    def values(self, kind: str) -> dict[str, torch.Tensor]:
        """The same by name."""
        return self._kinds[kind]

    def to_host(self, kind: str) -> None:
        """Have all of a kind wait in host memory until they are read."""
        for name, tensor in self._kinds[kind].items():
            self._kinds[kind][name] = tensor.cpu()


class Held:
    """Tensors by name, read as those of a file are (validation.compare.sliced.SlicedFile)."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def read(self, name: str, index: Sequence[slice] | None = None) -> torch.Tensor:
        """The tensor, or the part that `index` takes from it; a view."""
        with as_stored():
            found = self._tensors[name]
            return found[tuple(index)] if index else found

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self._tensors[name].shape)

    def close(self) -> None:
        """There is nothing to let go of."""


@dataclass(frozen=True)
class _Experts:
    """The truth's gradients of the experts of the stage that was last gone back through."""

    ledger: Ledger

    def gradient(self, parameter: Parameter, box: Box) -> torch.Tensor:
        """The part `box` of a routed parameter's gradient: experts first."""
        if self.ledger.experts is None:
            raise LookupError(f"the truth has no gradients of {parameter.name}")
        (first, last), *rest = box
        return self.ledger.experts.together(parameter.name, range(first, last))[(slice(None), *slices(tuple(rest)))]


def import_reference() -> None:
    """Import HuggingFace's side, which no other rank does."""
    importlib.import_module("validation.reference.stream")


def measure(case: Case, stored: Reference, plugin: Plugin, kept: KeptSteps, progress: Callable[[str], None]) -> Found:
    """Every step that is not done yet; what all of them have found.

    `stored` has the tokens and nothing else of the reference.
    """
    # transformers is imported here and in no other rank.
    from validation.reference.stream import Streamed

    build.start_random_numbers(case)
    if torch.cuda.is_initialized():
        # Sides take turns with blocks of many sizes: what one has freed must serve the other, whole.
        older = torch.cuda.memory._set_allocator_settings
        getattr(torch._C, "_accelerator_setAllocatorSettings", older)("expandable_segments:True")
    weights = open_weights(case, stored.weights(case))
    batch = Batch.stored(SlicedFile(stored.batch, device()))
    reference = Streamed(case, weights, batch, kept)
    rank = StreamedRank(case, stored, weights, plugin, kept)
    gc.freeze()
    if kept.damaged:
        progress(f"what was kept of {kept.damaged} is damaged; going on from there")
    for step in kept.steps[kept.done :]:
        progress(f"{step[0]}, layer {step[1] + 1} of {len(case.model.blocks)}")
        kept.end(_step(case, step, reference, rank, stored, weights, kept))
        gc.collect()
    gc.unfreeze()
    return _all(case, weights, kept.findings())


def _step(
    case: Case, step: Step, reference: Any, rank: StreamedRank, stored: Reference, weights: Any, kept: KeptSteps
) -> dict[str, Any]:
    """One stage forward, or back: first the reference, then the candidate beside it."""
    direction, stage = step
    truth, watch = Truth(), _Watch()
    ledger = Ledger(case, weights, truth, _routing(case, kept, step))
    (reference.forward if direction == FORWARD else reference.backward)(stage, ledger)
    ledger.end()
    watch.end("reference")
    if device().type == "cuda" and stage == case.model.blocks[-1]:
        # Here both sides are largest, and each leaves room that does not fit the other.
        truth.to_host(ledgers.PARAMETER_GRADIENTS)
        torch.cuda.empty_cache()
    for name, tensor in truth.values(ledgers.ROUTING).items():
        kept.put(f"routing/{name}", tensor)
    recorder = Recorder(0, None, None if case.precision == "fp64" else declared(case, _facts(case, ledger)), device())
    files = {stored.probes: ledgers.PROBE_VALUES, stored.probe_gradients: ledgers.PROBE_GRADIENTS}
    files |= {stored.gradients: ledgers.PARAMETER_GRADIENTS}
    for path, kind in files.items():
        recorder.serve(path, truth.of(kind))
    recorder.serve(stored.routing, Held(ledger.routing))
    forward = direction == FORWARD
    held = rank.forward(stage, recorder) if forward else rank.backward(stage, recorder, _Experts(ledger))
    watch.end("candidate")
    report = recorder.as_dict()
    return {"report": report, "floor": ledger.floor.as_dict(), "held": held, "step": [direction, stage], **watch.seen}


def _facts(case: Case, ledger: Ledger) -> dict[str, Any]:
    """What the recorder must know. An expert's part of a gradient may be off by more than all experts together are."""
    return {"dtypes": ledger.floor.dtypes(case), "floor": {name: 2 * error for name, error in ledger.floor.errors.items()}}


def _routing(case: Case, kept: KeptSteps, step: Step) -> dict[str, torch.Tensor]:
    """What the truth has chosen in this stage on the way forward."""
    direction, stage = step
    last = stage == case.model.blocks[-1]
    if direction == FORWARD or last or case.precision == "fp64" or stage not in case.model.expert_blocks:
        return {}
    return {name: kept.get(f"routing/{name}") for name in (f"{stage}/experts", f"{stage}/margin")}


def _all(case: Case, weights: Any, findings: list[dict[str, Any]]) -> Found:
    pieces: dict[str, list[Any]] = defaultdict(list)
    problems: dict[str, str] = {}
    notes: dict[str, Any] = {}
    floor = Floor({})
    for found in findings:
        floor.absorb(found["floor"])
        for name, measured in found["report"]["pieces"].items():
            pieces[name].extend(measured)
        problems = found["report"]["problems"] | problems
        notes |= found["report"]["notes"]
    steps = [{name: found[name] for name in ("step", "seconds", "memory", "reserved")} for found in findings]
    facts = Ledger(case, weights, Truth()).facts(floor)
    facts["reference_seconds"] = round(sum(step["seconds"]["reference"] for step in steps), 3)
    facts["reference_device_memory"] = max(step["memory"]["reference"] for step in steps)
    report = {"pieces": dict(pieces), "problems": problems, "notes": notes}
    return Found(report, facts, sum(found["held"] for found in findings), steps)


class _Watch:
    """How long each side of a step takes, and the most device memory that it has, bytes."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, float]] = {"seconds": {}, "memory": {}, "reserved": {}}
        self._begin()

    def end(self, side: str) -> None:
        on_gpu = torch.cuda.is_initialized()
        if on_gpu:
            torch.cuda.synchronize()
        self.seen["seconds"][side] = round(time.monotonic() - self._start, 3)
        self.seen["memory"][side] = torch.cuda.max_memory_allocated() if on_gpu else 0
        self.seen["reserved"][side] = torch.cuda.max_memory_reserved() if on_gpu else 0
        self._begin()

    def _begin(self) -> None:
        self._start = time.monotonic()
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
