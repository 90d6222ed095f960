"""Computing the reference of a case: forward and backward of the HuggingFace model, every probe written to the store."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from validation.case.case import Case
from validation.case.depth import FORWARD, WEIGHTS
from validation.case.inference import GENERATION, GREEDY, UPDATED, WITNESS, infers
from validation.case.steps import STEPS
from validation.compare.memory import device_peak, peak_memory
from validation.compare.precision import DTYPES, computing_in, make_deterministic
from validation.reference import apart, as_read, floors, inference, keys, step_floor, store, stream, turning
from validation.reference import model as reference_model
from validation.reference.batch import Batch, evaluated, make_batch
from validation.reference.checkpoint import Checkpoint, verify
from validation.reference.floor import Floor, gradients_of
from validation.reference.models import Models, Progress
from validation.reference.record import Isolation, Recording
from validation.reference.routing import Routing, experts_of
from validation.reference.seeded import SeededWeights
from validation.reference.sources import Precision, Weights, open_weights
from validation.reference.steps import Steps
from validation.reference.weights import save_weights


def compute(case: Case, home: Path, device: torch.device, progress: Progress, in_place: bool = False) -> store.Reference:
    """The case's reference, computed now and stored below `home`. Raises UsageError for a checkpoint that is no good.

    With `in_place` a truth stays on the device while floors are measured from it, if it has any.
    """
    return store.keep(case, home, lambda folder: _write(case, folder, device, progress, in_place))


def _write(case: Case, folder: Path, device: torch.device, progress: Progress, in_place: bool) -> dict[str, Any]:
    start, begun = time.monotonic(), list[tuple[str, float]]()

    def timed(said: str) -> None:
        begun.append((said, time.monotonic()))
        progress(said)

    timed("weights")
    checkpoint, digest = _weights(case, folder)
    batches = [make_batch(case, step) for step in range(max(1, case.training.steps))]
    written = [*batches, evaluated(case)] if case.training.steps else batches
    tensors = {name: tensor for step, batch in enumerate(written) for name, tensor in batch.tensors(step).items()}
    save_file(tensors, folder / "batch.safetensors")
    settings = make_deterministic()
    on_device = [batch.to(device) for batch in batches]
    more = _computed(case, checkpoint, on_device, folder, timed, in_place)
    ends = [when for _, when in begun[1:]] + [time.monotonic()]
    return {
        "weights_digest": digest,
        "keys": len(checkpoint.keys()),
        "unused": checkpoint.unused(),
        "set_aside": dict(checkpoint.set_aside),
        "reference_seconds": round(time.monotonic() - start, 3),
        "reference_phases": [(said, round(end - when, 3)) for (said, when), end in zip(begun, ends, strict=True)],
        "attention": reference_model.ATTENTION,
        "experts": reference_model.EXPERTS_IMPLEMENTATION,
        **settings,
        **more,
    }


def _weights(case: Case, folder: Path) -> tuple[Weights, str]:
    """The weights and their digest; those of a preset are made first."""
    if case.hf_model_path is None and not case.training.stream:
        digest = save_weights(case, folder / "weights.safetensors")
        return open_weights(case, folder / "weights.safetensors"), digest
    if case.hf_model_path is not None:
        as_read.check(case.model, Path(case.hf_model_path))
    weights = open_weights(case, Path(case.hf_model_path or folder))
    return weights, weights.digest if isinstance(weights, SeededWeights) else verify(weights)


def _computed(
    case: Case, weights: Weights, batches: list[Batch], folder: Path, progress: Progress, in_place: bool
) -> dict[str, Any]:
    if case.upto == WEIGHTS:
        return {} if case.precision == "fp64" else {"floor": {}, "dtypes": {}}
    if case.in_lockstep:  # the rank computes it beside the candidate
        return {}
    if case.training.stream or isinstance(weights, SeededWeights):
        if device_peak():
            torch.cuda.reset_peak_memory_stats()
        found = stream.record(case, weights, batches[0], folder, progress)
        shutil.rmtree(folder / "boundaries")
        return {**found, "reference_memory": peak_memory(), "reference_device_memory": device_peak()}
    if infers(case):
        return _inferred(case, weights, batches[0], folder, progress)
    write = _exact if case.precision == "fp64" else functools.partial(_truth_and_floor, in_place)
    return write(case, weights, batches, folder, progress)


def _inferred(case: Case, checkpoint: Checkpoint, batch: Batch, folder: Path, progress: Progress) -> dict[str, Any]:
    """Forward passes in fp64 with the case's weights and with the second ones, and what is generated with these.

    Below fp64 they are the truth, with the weights as the precision rounds them, and floors are measured against them.
    """
    save_weights(replace(case, seed=case.seed + 1), folder / store.UPDATED)
    weights = {"": checkpoint, UPDATED: Checkpoint.open(folder / store.UPDATED, case.model)}
    dtype, forward = DTYPES[case.precision], replace(case, upto=FORWARD)
    truths, probes = list[inference.Truth](), dict[str, torch.Tensor]()
    with computing_in("fp64"), torch.no_grad():
        for prefix, given in weights.items():
            progress("reference model")
            models = Models.build(forward, given, Precision(torch.float64, dtype), batch.tokens.device)

            def truth(prefix: str, batch: Batch, models: Models = models, given: Checkpoint = given) -> inference.Truth:
                recorded = models.record(batch, progress)
                return inference.Truth(prefix, batch, recorded.forward, models.routing(recorded, given))

            truths.append(truth(prefix, batch))
            probes |= inference.phases(case, truths[-1].forward, prefix)
            if not prefix:
                error = inference.witness(case, models.hf, batch, truths[-1].forward)
        progress("reference generation")
        answers = inference.generated(case, models.hf, batch)
        save_file(answers, folder / store.ANSWERS)
        if case.precision != "fp64":
            truths.append(truth(GENERATION, inference.generation(case, batch, answers[GREEDY])))
    save_file(probes, folder / "probes.safetensors")
    return {WITNESS: error} | (_inferred_floors(forward, weights, truths, folder, progress) if len(truths) > 2 else {})


def _inferred_floors(
    case: Case, weights: Mapping[str, Checkpoint], truths: list[inference.Truth], folder: Path, progress: Progress
) -> dict[str, Any]:
    """What the HuggingFace model in the precision differs by from its truths; the last is that of generation."""
    routes = {name: tensor for truth in truths for name, tensor in truth.stored_routing.items()}
    save_file(routes, folder / "routing.safetensors")
    dtype, found = DTYPES[case.precision], []
    with computing_in(case.precision), torch.no_grad():
        for truth in truths[:-1]:
            models = Models.build(case, weights[truth.prefix], Precision(dtype, dtype), truth.batch.tokens.device)
            found.append(inference.floor(case, models.hf, truth, models.quietly, progress))
        found.append({"score_floor": {GREEDY: inference.logit_floor(case, models.hf, truths[-1], models.quietly)}})
    return inference.merged(found)


def _exact(case: Case, checkpoint: Checkpoint, batches: list[Batch], folder: Path, progress: Progress) -> dict[str, Any]:
    """The step in fp64, which is its own truth, and the optimizer steps that follow."""
    double = Precision(torch.float64, torch.float64)
    with computing_in("fp64"):
        progress("reference model")
        models = Models.build(case, checkpoint, double, batches[0].tokens.device)
        steps = Steps(models.hf, models.mtp, case)
        with steps.loads.counting(batches[0]):
            recording = models.record(batches[0], progress)
        if case.isolated:
            _save_apart(models, checkpoint, recording, folder)
        _save(folder, recording, models.gradients())
        for step in range(1, (0 if case.upto else case.training.steps) + 1):
            progress(f"reference step {step}")
            if step > 1:
                steps.forward_and_backward(batches[step - 1])
            steps.take(step)
        save_file(steps.kept, folder / "steps.safetensors")
    return {}


def _truth_and_floor(
    in_place: bool, case: Case, checkpoint: Checkpoint, batches: list[Batch], folder: Path, progress: Progress
) -> dict[str, Any]:
    """The step in fp64 with the precision's weights, and how far the model itself is from it in the precision.

    The truth stays where it was computed with `in_place`, else it goes to the host and is compared there.
    """
    dtype, batch, later = DTYPES[case.precision], batches[0], batches[1:]
    steps_follow = case.training.steps > 0 and not case.upto
    with computing_in("fp64"):
        progress("truth")
        models = Models.build(case, checkpoint, Precision(torch.float64, dtype), batch.tokens.device)
        steps = Steps(models.hf, models.mtp, case, in_place=in_place)
        with steps.loads.counting(batch):
            recording = models.record(batch, progress, Recording(in_place=in_place))
        gradients, chosen = models.gradients(in_place), _save_apart(models, checkpoint, recording, folder)
        further: list[Routing] = []
        if steps_follow:
            progress("truth of the steps")
            routing = functools.partial(models.routing, checkpoint=checkpoint)
            further = step_floor.true_steps(steps, later, models.quietly, routing, in_place)
            del routing  # it holds the model
    truth = {f"{STEPS}{key}": value for key, value in steps.kept.items()}
    floor = Floor(recording.forward | dict(gradients_of(recording, gradients)) | truth)
    shown = turning.Shown(steps.kept, steps.norms)
    write = functools.partial(_save_all, folder, recording, gradients, shown.kept, _every_choice(steps, chosen, further))
    del models, steps
    with ThreadPoolExecutor(1, thread_name_prefix="written") as pool:
        writing = pool.submit(write)
        facts = floors.measured(
            floors.Truth(case, checkpoint, batches, recording, (chosen, *further), in_place), floor, shown, progress
        )
        writing.result()
    return facts


def _save_apart(models: Models, checkpoint: Checkpoint, recording: Recording, folder: Path) -> Routing:
    """Keep the choices that every run goes on with; for an isolated case record each expert's share, too."""
    chosen = models.routing(recording, checkpoint)
    save_file(chosen, folder / "routing.safetensors")
    if models.case.isolated:
        models.record_experts(chosen, Isolation(recording.forward, recording.gradients), recording)
        for layer in models.case.model.expert_blocks:
            apart.check(f"layers.{layer}.moe", recording.forward)
    return chosen


def _every_choice(steps: Steps, chosen: Routing, further: Sequence[Routing]) -> Routing:
    """The choices of each further step beside those of the first."""
    every = range(steps.case.model.num_hidden_layers) if steps.case.model.sparse else ()
    names = [(experts_of, layer) for layer in steps.layers] + [(keys.keys_of, layer) for layer in every]
    later = {of(layer, step): routing[of(layer)] for step, routing in enumerate(further, start=2) for of, layer in names}
    return chosen | later


def _save_all(
    folder: Path,
    recording: Recording,
    gradients: dict[str, torch.Tensor],
    left: Mapping[str, torch.Tensor],
    chosen: Routing,
) -> None:
    """A truth with what its steps leave, if it has any, and the choices of all."""
    _save(folder, recording, gradients)
    if left:
        save_file(dict(left), folder / "steps.safetensors")
        save_file(chosen, folder / "routing.safetensors")


def _save(folder: Path, recording: Recording, gradients: dict[str, torch.Tensor]) -> None:
    save_file(recording.forward, folder / "probes.safetensors")
    save_file(recording.gradients, folder / "probe_gradients.safetensors")
    save_file(gradients, folder / "gradients.safetensors")
