"""What one rank does: megatron-core's own forward pass over the sequences, and the losses of the tokens that it holds."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel

from validation.candidate import build, latent_norms, load, platform, staged
from validation.candidate.place import Place, device
from validation.candidate.recorder import Recorder
from validation.candidate.saved import load_saved
from validation.candidate.sequence import positions
from validation.candidate.step import run_step
from validation.case.case import Case
from validation.case.errors import UsageError
from validation.compare.precision import as_stored, computing_in, make_deterministic
from validation.reference.checkpoint import Checkpoint
from validation.run.report import RankReport


def rank(case_text: str, run_folder: str, batch: Path, temperature: float, timeout: float) -> None:
    """Leaves a list of parts: the first sequence, the positions, and for each sequence the log-probability behind each."""
    report = RankReport(Path(run_folder), int(os.environ["RANK"]))
    with report.last_words():
        case = Case.from_json(case_text)
        staged.register()
        make_deterministic()
        report.progress("process groups")
        if not case.on_cpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        dist.init_process_group(case.transport, timeout=timedelta(seconds=timeout))
        with computing_in(case.precision, platform.mode(case.on_cpu, case.precision)):
            build.start_groups(case)
            chunks = _loaded(case, report)
            parts = _Losses(case, chunks, temperature)
            wrapped = build.wrap(chunks, case)
            for model in wrapped:
                model.eval()
            report.progress("forward")
            run_step(case, wrapped, batch, alone=True)
        if case.layout.ranks > 1:
            dist.barrier()
            dist.destroy_process_group()
        report.write({"parts": parts.found})


def _loaded(case: Case, report: RankReport) -> list[GPTModel]:
    """The chunks of this rank with their weights: those of a Megatron checkpoint, where one is named. Raises UsageError."""
    report.progress("model")
    recorder = Recorder(report.rank)
    chunks = build.build(case)
    latent_norms.give(case, chunks, None)
    held = load.held_by(chunks, case.model, recorder)
    report.progress("weights")

    def fill() -> None:
        if case.candidate_checkpoint is not None:
            load_saved(chunks, Path(case.candidate_checkpoint), case.layout)
        else:
            load.copy_weights(held, Checkpoint.open(str(case.hf_model_path), case.model, case.layers, device()))

    with as_stored():
        load.load(chunks, recorder, fill)
    if recorder.problems:
        raise UsageError(f"Megatron's weights are not whole: {next(iter(recorder.problems.values()))}")
    return chunks


class _Losses:
    """Takes the losses of each micro-batch as the last stage returns them. Tensor-parallel ranks hold the same."""

    def __init__(self, case: Case, chunks: list[GPTModel], temperature: float) -> None:
        self.found: list[dict[str, Any]] = []
        self._case, self._place, self._micro_batch = case, Place.here(case), 0
        self._positions = positions(case.seq_length, case.layout.cp, self._place.cp)
        for chunk in chunks:
            if chunk.post_process:
                if temperature != 1.0:
                    chunk.output_layer.register_forward_hook(lambda *given: (given[-1][0] / temperature, *given[-1][1:]))
                chunk.register_forward_hook(self._take)

    def _take(self, module: Any, arguments: Any, output: torch.Tensor) -> None:
        first, _ = self._place.batch_rows(self._micro_batch)
        self._micro_batch += 1
        if parallel_state.get_tensor_model_parallel_rank() == 0:
            values = (-output.detach().double()).cpu().tolist()
            self.found.append({"first": first, "positions": self._positions, "logprobs": values})
