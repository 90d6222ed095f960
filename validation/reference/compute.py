"""Computing the reference of a case: forward and backward of the HuggingFace model, every probe written to the store."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.modeling_layers import MtpModel
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

from validation.case.case import Case
from validation.case.depth import FORWARD, WEIGHTS
from validation.case.inference import GENERATION, GREEDY, UPDATED, WITNESS, infers
from validation.case.memory import truth_on_card
from validation.case.optimizers import ADAM, Rule
from validation.case.steps import STEPS
from validation.compare.memory import device_peak, peak_memory
from validation.compare.precision import DTYPES, computing_in, make_deterministic
from validation.reference import apart, as_read, fp8, inference, keys, step_floor, store, stream, sums, turning
from validation.reference import model as reference_model
from validation.reference import mtp as reference_mtp
from validation.reference.balancing import Balance
from validation.reference.batch import Batch, evaluated, make_batch
from validation.reference.checkpoint import Checkpoint, verify
from validation.reference.floor import VARIANTS, Floor, Variant, gradients_of
from validation.reference.fp8 import Recipe
from validation.reference.record import Isolation, Recording, record_step
from validation.reference.routing import Routing, expert_bias, experts_of, routing
from validation.reference.seeded import SeededWeights
from validation.reference.sources import Precision, Weights, open_weights
from validation.reference.steps import Steps
from validation.reference.weights import save_weights

Progress = Callable[[str], None]


def compute(case: Case, home: Path, device: torch.device, progress: Progress) -> store.Reference:
    """The case's reference, computed now and stored below `home`. Raises UsageError for a checkpoint that is no good."""
    return store.keep(case, home, lambda folder: _write(case, folder, device, progress))


@dataclass(frozen=True)
class _Models:
    """The HuggingFace model of a case with its MTP layers, and what watches its routers."""

    case: Case
    hf: DeepseekV3ForCausalLM
    mtp: MtpModel | None
    balance: Balance

    @classmethod
    def build(cls, case: Case, checkpoint: Checkpoint, precision: Precision, device: torch.device) -> _Models:
        hf = reference_model.build(case.model, checkpoint, precision, device)
        mtp = reference_mtp.build(hf, case.model, checkpoint, precision, device)
        return cls(case, hf, mtp, Balance(reference_mtp.gates(hf, mtp, case.model), case))

    def record(self, batch: Batch, progress: Progress, recording: Recording | None = None, scale: float = 1.0) -> Recording:
        """One step's probes, into `recording` where one is given."""
        case, balance = self.case, self.balance

        def further(hidden: torch.Tensor, recording: Recording) -> torch.Tensor | float:
            added = 0.0 if self.mtp is None else reference_mtp.record(self.hf, self.mtp, case, batch, hidden, recording)
            for layer, value in balance.losses().items():
                recording.forward[f"layers.{layer}.moe.balancing"] = value.detach().cpu()
            return added + sums.shared(balance.total())

        with balance.watching(batch):
            return record_step(self.hf, case, batch, progress, further, recording, scale)

    def quietly(self, batch: Batch, recording: Recording, scale: float = 1.0) -> Recording:
        """The same without a word of progress."""
        return self.record(batch, lambda said: None, recording, scale)

    def record_experts(self, chosen: Routing, given: Isolation, recording: Recording, early: bool = False) -> None:
        """Every layer's experts, each by itself (validation.reference.apart)."""
        blocks = reference_mtp.blocks(self.hf, self.mtp)
        for layer in self.case.model.expert_blocks:
            experts, prefix = blocks[layer].mlp.experts, f"layers.{layer}.moe"
            apart.record(experts, prefix, apart.choice(chosen, layer, experts.down_proj.device), given, recording, early)

    def routing(self, recording: Recording, checkpoint: Checkpoint) -> Routing:
        """What the routers have chosen, and by how much."""
        model = self.case.model
        biases = {layer: expert_bias(checkpoint, layer, model) for layer in model.expert_blocks}
        return routing(recording.forward, biases, model) | keys.chosen_keys(recording.forward, model)

    def named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Every parameter, those of MTP layers at the end."""
        own = reference_mtp.named_parameters(self.mtp, self.case.model) if self.mtp else ()
        return [*self.hf.named_parameters(), *own]

    def gradients(self, in_place: bool = False) -> dict[str, torch.Tensor]:
        """The gradient of every trained parameter, by the checkpoint's names; none without a backward pass.

        On the host, or where they are with `in_place`.
        """
        if self.case.upto == FORWARD:
            return {}
        found = reference_model.gradients(self.named_parameters(), self.case.model)
        return {name: gradient if in_place else gradient.cpu() for name, gradient in found.items()}

    def forget_gradients(self) -> None:
        """Before another run."""
        self.hf.zero_grad()
        if self.mtp is not None:
            self.mtp.zero_grad()


def _write(case: Case, folder: Path, device: torch.device, progress: Progress) -> dict[str, Any]:
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
    more = _computed(case, checkpoint, on_device, folder, timed)
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


def _computed(case: Case, weights: Weights, batches: list[Batch], folder: Path, progress: Progress) -> dict[str, Any]:
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
    write = _exact if case.precision == "fp64" else _truth_and_floor
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
            models = _Models.build(forward, given, Precision(torch.float64, dtype), batch.tokens.device)

            def truth(prefix: str, batch: Batch, models: _Models = models, given: Checkpoint = given) -> inference.Truth:
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
            models = _Models.build(case, weights[truth.prefix], Precision(dtype, dtype), truth.batch.tokens.device)
            found.append(inference.floor(case, models.hf, truth, models.quietly, progress))
        found.append({"score_floor": {GREEDY: inference.logit_floor(case, models.hf, truths[-1], models.quietly)}})
    return inference.merged(found)


def _exact(case: Case, checkpoint: Checkpoint, batches: list[Batch], folder: Path, progress: Progress) -> dict[str, Any]:
    """The step in fp64, which is its own truth, and the optimizer steps that follow."""
    double = Precision(torch.float64, torch.float64)
    with computing_in("fp64"):
        progress("reference model")
        models = _Models.build(case, checkpoint, double, batches[0].tokens.device)
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
    case: Case, checkpoint: Checkpoint, batches: list[Batch], folder: Path, progress: Progress
) -> dict[str, Any]:
    """The step in fp64 with the precision's weights, and how far the model itself is from it in the precision."""
    dtype, batch, later = DTYPES[case.precision], batches[0], batches[1:]
    steps_follow = case.training.steps > 0 and not case.upto
    device = batch.tokens.device
    in_place = device.type == "cuda" and truth_on_card(case) > 0
    with computing_in("fp64"):
        progress("truth")
        models = _Models.build(case, checkpoint, Precision(torch.float64, dtype), device)
        steps = Steps(models.hf, models.mtp, case)
        with steps.loads.counting(batch):
            recording = models.record(batch, progress, Recording(in_place=in_place))
        gradients, chosen = models.gradients(in_place), _save_apart(models, checkpoint, recording, folder)
        further: list[Routing] = []
        if steps_follow:
            progress("truth of the steps")
            record, routing = models.quietly, functools.partial(models.routing, checkpoint=checkpoint)
            further = step_floor.true_steps(steps, later, record, routing)
            _save_steps(steps, chosen, further, folder)
    truth = {f"{STEPS}{key}": value for key, value in steps.kept.items()}
    floor = Floor(recording.forward | dict(gradients_of(recording, gradients)) | truth)
    shown = turning.Shown(steps.kept, steps.norms)
    del models, steps
    with ThreadPoolExecutor(1, thread_name_prefix="written") as pool:
        writing = pool.submit(_save, folder, recording, gradients)
        facts = _floors(_True(case, checkpoint, batches, recording, (chosen, *further), in_place), floor, shown, progress)
        writing.result()
    return facts


@dataclass(frozen=True)
class _True:
    """What floors are measured from: a case's truth in `recording`, and each step's choices.

    With `in_place` it lies where it was computed.
    """

    case: Case
    checkpoint: Checkpoint
    batches: list[Batch]
    recording: Recording
    choices: Sequence[Routing]
    in_place: bool


def _floors(true: _True, floor: Floor, shown: turning.Shown, progress: Progress) -> dict[str, Any]:
    """What the model itself is off from its truth in the precision, in several runs."""
    case, checkpoint, batches, recording, in_place = true.case, true.checkpoint, true.batches, true.recording, true.in_place
    (chosen, *further), batch, later = true.choices, batches[0], batches[1:]
    dtype, device, steps_follow = DTYPES[case.precision], batch.tokens.device, case.training.steps > 0 and not case.upto
    with computing_in(case.precision):
        models = _Models.build(case, checkpoint, Precision(dtype, dtype), device)
        # As large a loss as Megatron has, which sums over tokens and divides at the end; a power of two rounds nothing. In
        # fp8 it matters where small gradients vanish, so that there it is the very number.
        tokens, runs = int(batch.mask.sum()), _floor_runs(case)
        scale = float(tokens) if fp8.recipes(case) else 2.0 ** tokens.bit_length()
        for name, variant, recipe in runs:
            progress(f"floor: {name}")
            models.forget_gradients()
            isolation = Isolation(recording.forward, recording.gradients, scale, variant.move) if case.isolated else None
            steps = Steps(models.hf, models.mtp, case)
            with reference_model.varied(models.hf, variant), _quantising(models, recipe):
                with steps.loads.counting(batch):
                    found = models.record(batch, progress, Recording(chosen, isolation, in_place), scale)
                if isolation is not None:
                    models.record_experts(chosen, isolation, found, early=variant.experts != "eager")
                floor.add(found.forward.items())
                floor.add(gradients_of(found, models.gradients(in_place)), scale)
                if steps_follow:
                    step_floor.rounded_steps(steps, later, further, functools.partial(models.quietly, scale=scale), scale)
            if steps_follow:
                floor.add((f"{STEPS}{key}", value) for key, value in steps.kept.items())
                shown.add(steps.kept, steps.norms)
                models = _Models.build(case, checkpoint, Precision(dtype, dtype), device)
        if case.rounds_sums and not case.upto:
            progress("floor: gradients added up in bf16")
            _add_sums(floor, models, batches, (chosen, *further), scale, shown)
    if steps_follow:
        del models, steps
        if later and Rule.of(case.training).kind == ADAM:
            progress("floor: single elements moved")
            with computing_in("fp64"):
                models = _Models.build(case, checkpoint, Precision(torch.float64, dtype), device)
                turning.raise_later(floor, Steps(models.hf, models.mtp, case), shown, later, further, models.quietly)
        step_floor.widen(floor, case, shown)
    return {**floor.facts(case), "floor_runs": ", ".join(name for name, _, _ in runs)}


def _add_sums(
    floor: Floor, models: _Models, batches: Sequence[Batch], chosen: Sequence[Routing], scale: float, shown: turning.Shown
) -> None:
    """Take in a run whose gradients are added up sequence by sequence, and its steps if there are any.

    What it has before the gradients of parameters is what the other runs have.
    """
    case, factor = models.case, sums.factor(int(batches[0].mask.sum()))

    def record(batch: Batch, recording: Recording) -> Recording:
        with sums.one_by_one(len(batch.tokens)):
            found = models.quietly(batch, recording, scale)
        for _, parameter in models.named_parameters():
            if parameter.grad is not None:
                parameter.grad *= factor
        return found

    models.forget_gradients()
    steps = Steps(models.hf, models.mtp, case)
    with steps.loads.counting(batches[0]):
        record(batches[0], Recording(chosen[0]))
    floor.add(((f"gradients/{name}", found) for name, found in models.gradients().items()), scale * factor)
    if case.training.steps:
        step_floor.rounded_steps(steps, batches[1:], chosen[1:], record, scale * factor)
        floor.add((f"{STEPS}{key}", value) for key, value in steps.kept.items())
        shown.add(steps.kept, steps.norms)


def _floor_runs(case: Case) -> list[tuple[str, Variant, Recipe | None]]:
    """The variants by their names; in fp8 those of attention and input under the first recipe, and one run under each other.

    What eight bits leave is far more than what variants differ by.
    """
    first, *others = fp8.recipes(case) or (None,)
    if first is None:
        return [(variant.name, variant, None) for variant in VARIANTS]
    pairs = [(variant, first) for variant in VARIANTS if variant.experts == Variant().experts]
    pairs += [(Variant(), recipe) for recipe in others if recipe is not None]
    return [(f"{variant.name}, {recipe.name}", variant, recipe) for variant, recipe in pairs]


def _quantising(models: _Models, recipe: Recipe | None) -> AbstractContextManager[None]:
    """Within it the model's products are in fp8 as the recipe says, where there is one."""
    if recipe is None:
        return nullcontext()
    return fp8.computing_with(recipe, [*models.hf.model.layers, *(models.mtp.layers if models.mtp is not None else ())])


def _save_apart(models: _Models, checkpoint: Checkpoint, recording: Recording, folder: Path) -> Routing:
    """Keep the choices that every run goes on with; for an isolated case record each expert's share, too."""
    chosen = models.routing(recording, checkpoint)
    save_file(chosen, folder / "routing.safetensors")
    if models.case.isolated:
        models.record_experts(chosen, Isolation(recording.forward, recording.gradients), recording)
        for layer in models.case.model.expert_blocks:
            apart.check(f"layers.{layer}.moe", recording.forward)
    return chosen


def _save_steps(steps: Steps, chosen: Routing, further: Sequence[Routing], folder: Path) -> None:
    """What the steps leave, and the choices of each further one beside those of the first."""
    save_file(steps.kept, folder / "steps.safetensors")
    every = range(steps.case.model.num_hidden_layers) if steps.case.model.sparse else ()
    names = [(experts_of, layer) for layer in steps.layers] + [(keys.keys_of, layer) for layer in every]
    later = {of(layer, step): routing[of(layer)] for step, routing in enumerate(further, start=2) for of, layer in names}
    save_file(chosen | later, folder / "routing.safetensors")


def _save(folder: Path, recording: Recording, gradients: dict[str, torch.Tensor]) -> None:
    save_file(recording.forward, folder / "probes.safetensors")
    save_file(recording.gradients, folder / "probe_gradients.safetensors")
    save_file(gradients, folder / "gradients.safetensors")
