"""What one rank does, from the first collective to its findings."""

from __future__ import annotations

import dataclasses
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import __version__ as core_version
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from torch.distributed.elastic.utils.store import barrier

from validation.candidate import (
    build,
    first_use,
    gloo,
    latent_norms,
    libraries,
    load,
    mends,
    platform,
    rehearsal,
    staged,
    stream,
    user_buffers,
)
from validation.candidate.balancing import compare_balancing
from validation.candidate.compare import compare_gradients, declared
from validation.candidate.configured import Overwritten
from validation.candidate.kept_steps import KeptSteps, plan
from validation.candidate.optimizer import gather_gradients
from validation.candidate.place import device
from validation.candidate.probes import ProbedChunk
from validation.candidate.recorder import Recorder
from validation.candidate.saved import load_saved
from validation.candidate.step import loss_divisor, run_step
from validation.candidate.unreduced import Unreduced
from validation.candidate.versions import release
from validation.case import loss_scale, tree
from validation.case.case import Case
from validation.case.depth import ALL, FORWARD, WEIGHTS
from validation.case.errors import EnvironmentMissing
from validation.case.inference import infers
from validation.case.plural import many
from validation.compare import brought
from validation.compare.memory import device_peak, peak_memory
from validation.compare.precision import DTYPES, LOSS_DTYPES, as_stored, computing_in, make_deterministic
from validation.reference.checkpoint import Checkpoint
from validation.reference.store import Reference
from validation.run import life
from validation.run import plugin as plugins
from validation.run.calls import Calls
from validation.run.lockstep_folder import lockstep_folder
from validation.run.plugin import Plugin
from validation.run.replaced import Replaced
from validation.run.report import RankReport

_WITHOUT = (
    f"install one that fits (`pip install --no-build-isolation -r {tree.requirements('te')}`), or take --implementation local"
)


def rank(
    case_text: str, run_folder: str, reference_folder: str, timeout: float, keep: str, plugin: str = "", state: str = ""
) -> None:
    """Entry point of every rank of a case: compares its pieces and leaves its findings in the run's folder.

    `keep` names a folder that gets what is compared, in the files of a reference; empty for none. Only where one rank
    holds everything. Without a `reference_folder` the rank gets ready, and is told it when its turn comes
    (validation.run.held). `plugin` names what the rank calls while it makes the model (validation.run.plugin), `state` a
    folder for what a case in lockstep goes on with if it is cut; both are empty for nothing.
    """
    report = RankReport(Path(run_folder), int(os.environ["RANK"]))
    with report.last_words():
        case = Case.from_json(case_text)
        if case.uses_te and (cause := platform.broken.get("transformer_engine")):
            raise EnvironmentMissing(f"megatron-core cannot use the Transformer Engine that is installed ({cause}); {_WITHOUT}")
        report.write(_findings(case, reference_folder, report, timeout, keep, plugin, state))


def _findings(
    case: Case, reference_folder: str, report: RankReport, timeout: float, keep: str, named: str, state: str
) -> dict[str, Any]:
    in_lockstep = case.in_lockstep and not keep
    if in_lockstep and named:
        from validation.candidate import lockstep

        lockstep.import_reference()  # what a plugin replaces in it must be there before
    replaced = Replaced(watching=case.on_cpu, lockstep=in_lockstep)
    calls, overwritten = Calls(), Overwritten()
    threads = plugins.Threads(named)
    plugin = plugins.load(named, replaced, calls)
    if named:
        plugin = dataclasses.replace(plugin, configure=overwritten.by(plugin.configure))
    report.progress("process groups")
    staged.register()
    settings = {**make_deterministic(), "megatron-core": release(core_version)}
    if platform.broken:
        settings["taken-for-absent"] = "; ".join(f"{name} ({cause})" for name, cause in platform.broken.items())
    baseline = peak_memory()
    if not case.on_cpu:
        # In turn, so that ranks which share GPUs are spread over all of them.
        gpu = int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()
        using = first_use.ahead(gpu, DTYPES[case.precision])
    if not reference_folder:
        if not case.on_cpu:
            # While the thread loads kernels.
            rehearsal.compile_once(case, torch.device("cuda", gpu))
            using.join()
            if not report.has_turn():
                rehearsal.pin(case)
        reference_folder = report.turn(lambda folder: None if case.on_cpu else _bring(case, Reference(folder), gpu))
        report.progress("process groups")
    stored = Reference(Path(reference_folder))
    with gloo.few_threads(case.transport):
        dist.init_process_group(case.transport, timeout=timedelta(seconds=timeout))
    with computing_in(case.precision, platform.mode(case.on_cpu, case.precision), exchange=imports_nothing(case, named)):
        build.start_groups(case)
        if not case.on_cpu:
            # Not before: it waits until the context is there, and groups need none.
            torch.cuda.set_device(gpu)
            _bring(case, stored, gpu)
        user_buffers.start(case)
        if in_lockstep:
            found, held = _in_lockstep(case, stored, report, plugin, lockstep_folder(case, stored, named, state))
        else:
            recorder = Recorder(report.rank, Path(keep) if keep else None, declared(case, stored.facts()), device())
            held = _measure(case, stored, recorder, report, plugin)
            found = recorder.as_dict()
        place = _place()
    if case.layout.ranks > 1:
        _leave_together(case, timeout)
    # In lockstep each step begins to count anew.
    on_device = [device_peak(), *(max(step["memory"].values()) for step in found.get("steps", ()))]
    if found_cudnn := "" if case.on_cpu else libraries.cudnn():
        settings["cudnn"] = found_cudnn
    memory = {"baseline": baseline, "peak": peak_memory(), "parameters": held, "device_peak": max(on_device) - brought.size()}
    threads.all_well()
    seen = {"uncalled": replaced.end(), "overwritten": overwritten.values, "calls": calls.as_dict()}
    return {**found, "place": place, "memory": memory, "settings": settings, **seen}


def _bring(case: Case, stored: Reference, gpu: int) -> None:
    """Have what a small case is compared with on the GPU before it is asked for, in the order in which it will be."""
    if not case.training.stream and not brought.size():
        sharing = -(-case.layout.ranks // torch.cuda.device_count())
        files = (stored.weights(case), stored.probes, stored.probe_gradients, stored.gradients, stored.steps)
        brought.bring(files, torch.device("cuda", gpu), sharing)


def imports_nothing(case: Case, plugin: str) -> bool:
    """Whether all code that a case's ranks call has been imported before they begin: no user's, and no reference's.

    On a GPU it would gain nothing that shows, and has not been tried.
    """
    return case.on_cpu and not (plugin or ":" in case.implementation or case.in_lockstep or infers(case))


def _in_lockstep(
    case: Case, stored: Reference, report: RankReport, plugin: Plugin, folder: tuple[Path, str] | None
) -> tuple[dict[str, Any], int]:
    """This rank's part of the report, with what it knows of the reference, and the bytes of its parameters.

    What was done goes on from `folder`, by its key, if no other process uses it.
    """
    from validation.candidate import lockstep  # it imports transformers

    steps, unused = plan(case.model.blocks), (report.path("boundaries"), "")
    kept = KeptSteps.opened(*(folder or unused), steps, device()) or KeptSteps.opened(*unused, steps, device())
    if kept is None:
        raise RuntimeError(f"{unused[0]} is in use")
    before = kept.done
    try:
        found = lockstep.measure(case, stored, mends.with_mends(case, stored.batch, plugin), kept, report.progress)
    finally:
        kept.close()
    facts = {**found.reference, **({"resumed": f"{before} of {many(len(steps), 'step')}"} if before else {})}
    return {**found.report, "reference": facts, "steps": found.steps, "kept": str(kept.folder)}, found.held


def _leave_together(case: Case, timeout: float) -> None:
    """Wait for every rank: one that leaves early takes its connections with it while others still read from them.

    NCCL's end with the process, as those of a rank that is alone do: closing them takes half a second a group. Nothing is
    on its way when every device has come to its end and every rank has said so, in the store in which they met.
    """
    if case.transport == "nccl":
        torch.cuda.synchronize()
        barrier(dist.distributed_c10d._get_default_store(), case.layout.ranks, "leaving", timeout)
        return
    dist.barrier()
    dist.destroy_process_group()


def _measure(case: Case, stored: Reference, recorder: Recorder, report: RankReport, plugin: Plugin) -> int:
    """Everything that is compared, into the recorder; returns the bytes of the parameters that this rank holds."""
    plugin = mends.with_mends(case, stored.batch, plugin)
    if case.training.stream:
        return stream.measure(case, stored, recorder, plugin, report.path("boundaries"), report.progress)
    report.progress("model")
    chunks = build.build(case, plugin.configure)
    latent_norms.give(case, chunks, recorder)
    plugin.built(case, chunks)
    held = load.held_by(chunks, case.model, recorder)
    report.progress("weights")
    weights = stored.weights(case)
    checkpoint = Checkpoint.open(weights, case.model, case.layers, device(), stored=weights.parent == stored.folder)
    with as_stored():
        load.load(chunks, recorder, lambda: _fill(case, chunks, held, checkpoint))
        load.compare_weights(held, checkpoint, recorder)
    plugin.loaded(case, chunks)
    if case.upto == WEIGHTS:
        return _closed(recorder, held)
    if infers(case):
        from validation.inference import infer  # no other case needs megatron-core's inference

        infer(case, chunks[0], recorder, stored, report.progress)
        return _closed(recorder, held)
    scale = loss_scale.first(case)
    divisor = loss_divisor(case, stored.batch) * scale
    probed = [ProbedChunk(chunk, case, recorder, stored, checkpoint, divisor) for chunk in chunks]
    report.progress("gradient buffers")
    wrapped = build.wrap(chunks, case)
    plugin.wrapped(case, wrapped)
    Unreduced(case, held, recorder, stored, divisor).watch(chunks[0].config)
    for model in wrapped:
        model.train()
    report.progress("forward" if case.upto == FORWARD else "forward and backward")
    losses = run_step(case, wrapped, stored.batch)
    loss = losses.mean()
    if loss is not None:
        recorder.compare("loss", loss, (), stored.probes, dtype=LOSS_DTYPES[case.precision])
    if case.upto == FORWARD:
        return _closed(recorder, held)
    compare_balancing(case, recorder, stored)
    report.progress("gradients")
    with as_stored():
        if case.training.optimizer == "distributed":
            gather_gradients(wrapped)
        compare_gradients(held, stored, recorder, scale=scale)
    for chunk in probed:
        chunk.stop()
    if case.training.steps and case.upto == ALL:

        def silent(chunk: GPTModel, case: Case) -> ProbedChunk:
            found = ProbedChunk(chunk, case, recorder, stored, checkpoint, divisor)
            found.be_silent()
            return found

        life.live(life.Rank(case, chunks, wrapped, probed, held, stored, recorder, report, plugin, silent))
    return _closed(recorder, held)


def _closed(recorder: Recorder, held: load.Held) -> int:
    """The bytes of the parameters that this rank holds; nothing more is compared."""
    recorder.close()
    return sum(tensor.numel() * tensor.element_size() for tensor, _ in held)


def _fill(case: Case, chunks: list[Any], held: load.Held, checkpoint: Checkpoint) -> None:
    """The weights: a Megatron checkpoint's, where one is to be compared, else the reference's own."""
    if case.candidate_checkpoint is not None:
        load_saved(chunks, Path(case.candidate_checkpoint), case.layout)
    else:
        load.copy_weights(held, checkpoint)


def _place() -> dict[str, int]:
    mpu = parallel_state
    return {
        "tp": mpu.get_tensor_model_parallel_rank(),
        "pp": mpu.get_pipeline_model_parallel_rank(),
        "cp": mpu.get_context_parallel_rank(),
        "dp": mpu.get_data_parallel_rank(),
        "ep": mpu.get_expert_model_parallel_rank(),
        "etp": mpu.get_expert_tensor_parallel_rank(),
    }
