"""What one rank does, from the first collective to its findings."""

from __future__ import annotations

import os
import resource
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import __version__ as core_version
from megatron.core import parallel_state

from validation.candidate import build, load, platform
from validation.candidate.probes import ProbedChunk
from validation.candidate.recorder import Recorder
from validation.candidate.step import run_step
from validation.case.case import Case
from validation.compare.precision import DTYPES, Mode, as_stored, computing_in, make_deterministic
from validation.compare.sliced import SlicedFile
from validation.reference.checkpoint import Checkpoint
from validation.reference.store import Reference
from validation.run.report import RankReport


def rank(case_text: str, run_folder: str, reference_folder: str, timeout: float) -> None:
    """Entry point of every rank of a case: compares its pieces and leaves its findings in the run's folder."""
    report = RankReport(Path(run_folder), int(os.environ["RANK"]))
    with report.last_words():
        case = Case.from_json(case_text)
        report.write(_findings(case, Reference(Path(reference_folder)), report, timeout))


def reference(case_text: str, run_folder: str, home: str, threads: int) -> None:
    """Entry point of the one process that computes a reference."""
    report = RankReport(Path(run_folder), 0)
    with report.last_words():
        # transformers is imported by the one process that needs it: where the reference is stored, none does.
        from validation.reference import compute

        torch.set_num_threads(threads)
        case = Case.from_json(case_text)
        device = torch.device("cuda", 0) if case.transport == "nccl" else torch.device("cpu")
        stored = compute.compute(case, Path(home), device, report.progress)
        report.write({"folder": str(stored.folder)})


def _findings(case: Case, stored: Reference, report: RankReport, timeout: float) -> dict[str, Any]:
    on_cpu = case.transport == "gloo"
    report.progress("process groups")
    if not on_cpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    settings = {**make_deterministic(), "megatron-core": core_version}
    baseline = _peak_memory()
    dist.init_process_group(case.transport, timeout=timedelta(seconds=timeout))
    with computing_in(case.precision, platform.CudaMeansCpu if on_cpu else Mode):
        build.start_groups(case.layout)
        recorder = Recorder(report.rank)
        held = _measure(case, stored, recorder, report)
        place = _place()
    # A rank that leaves early takes its connections with it while others still read from them.
    dist.barrier()
    dist.destroy_process_group()
    memory = {"baseline": baseline, "peak": _peak_memory(), "parameters": held}
    return {**recorder.as_dict(), "place": place, "memory": memory, "settings": settings}


def _measure(case: Case, stored: Reference, recorder: Recorder, report: RankReport) -> int:
    """Everything that is compared, into the recorder; returns the bytes of the parameters that this rank holds."""
    report.progress("model")
    chunks = build.build(case)
    held = load.held_by(chunks, case.model, recorder)
    report.progress("weights")
    checkpoint = Checkpoint.open(stored.weights(case), case.model, case.layers)
    with as_stored():
        load.load(chunks, held, checkpoint, recorder)
        load.compare_weights(held, checkpoint, recorder)
    tokens = int(SlicedFile(stored.batch).read("mask").sum())
    for chunk in chunks:
        ProbedChunk(chunk, case, recorder, stored, tokens)
    report.progress("gradient buffers")
    wrapped = build.wrap(chunks)
    for model in wrapped:
        model.train()
    report.progress("forward and backward")
    losses = run_step(case, wrapped, stored.batch)
    loss = losses.mean()
    if loss is not None:
        recorder.compare("loss", loss.to(DTYPES[case.precision]), (), stored.probes)
    report.progress("gradients")
    with as_stored():
        _compare_gradients(held, stored, recorder)
    recorder.close()
    return sum(tensor.numel() * tensor.element_size() for tensor, _ in held)


def _compare_gradients(held: load.Held, stored: Reference, recorder: Recorder) -> None:
    """What finalize_model_grads has left in each parameter's main_grad."""
    found = []
    for tensor, parts in held:
        gradient = getattr(tensor, "main_grad", None)
        for part in parts:
            if not part.parameter.trained:
                continue
            if gradient is None:
                name = f"{load.GRADIENTS}{part.parameter.name}"
                recorder.problem(name, f"{part.megatron} has no main_grad after finalize_model_grads")
            else:
                found.append((part, part.of(gradient)))
    for parameter, box, value in load.together(found):
        recorder.compare(f"{load.GRADIENTS}{parameter.name}", value, box, stored.gradients, key=parameter.name)


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


def _peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
