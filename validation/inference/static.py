"""megatron-core's inference with a static context: the prompt in one pass, then the given tokens one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.inference.contexts import StaticInferenceContext
from megatron.core.inference.model_inference_wrappers.gpt.gpt_inference_wrapper import GPTInferenceWrapper
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.moe.moe_layer import BaseMoELayer
from megatron.core.transformer.utils import set_model_to_sequence_parallel

from validation.candidate import platform
from validation.candidate.place import Place, device
from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.case.inference import DECODE, FULL, PREFILL, prompt_length
from validation.compare.sliced import SlicedFile
from validation.inference.versions import wrapped
from validation.inference.watch import Watch
from validation.reference.store import Reference

Progress = Callable[[str], None]


class Inference:
    """One rank's model with its tokens: those of its data-parallel share of the batch."""

    def __init__(self, case: Case, chunk: GPTModel, recorder: Recorder, stored: Reference, progress: Progress) -> None:
        self._case, self._chunk, self._progress = case, chunk, progress
        self._watch = Watch(case, chunk, recorder, stored)
        share = case.batch_size // case.layout.data_parallel
        self._first = Place.here(case).dp * share
        rows = slice(self._first, self._first + share)
        self._tokens = SlicedFile(stored.batch, device()).read("0/tokens", (rows, slice(None)))
        if case.on_cpu:
            platform.stages_on_the_cpu()
        chunk.eval()
        if case.layout.tp > 1 and case.layout.ep > 1:
            # As megatron-core's own generation does before its first forward pass.
            set_model_to_sequence_parallel(chunk, False, exclude_modules=[BaseMoELayer])

    @torch.no_grad()
    def run(self) -> None:
        """All phases, each compared as it is computed."""
        self._progress("full forward")
        self._full()
        self._cached()

    def _begin(self, phase: str, position: int = 0, row: int = 0) -> None:
        now = self._watch.now
        now.phase, now.position, now.row = phase, position, self._first + row

    def _full(self) -> None:
        """The model without a cache, over all tokens."""
        self._begin(FULL)
        pipelined(self._case, self._chunk, self._tokens)

    def _cached(self) -> None:
        rows, length = self._tokens.shape
        prompt = prompt_length(self._case)
        context = StaticInferenceContext(max_batch_size=rows, max_sequence_length=length)
        # Half of the sequences at a time: with pipeline stages the prompt is prefilled in micro-batches.
        wrapper = wrapped(GPTInferenceWrapper, self._case, self._chunk, context, at_once=max(1, rows // 2) * prompt)
        wrapper.prep_model_for_inference()
        given = wrapper.prep_inference_input(self._tokens)
        moving = self._chunk.register_forward_pre_hook(lambda *_: self._moved(context))
        self._progress("prefill")
        self._phase = PREFILL
        # Of a prompt megatron-core makes the last token's logits alone, unless log-probabilities are asked for.
        context.materialize_only_last_token_logits = False
        wrapper.run_one_forward_step(wrapper.get_batch_for_context_window(given, 0, prompt))
        self._progress("decode")
        self._phase = DECODE
        context.enable_decode_mode()
        context.materialize_only_last_token_logits = True
        for position in range(prompt, length):
            wrapper.run_one_forward_step(wrapper.get_batch_for_context_window(given, position, position + 1))
        moving.remove()

    def _moved(self, context: Any) -> None:
        """Before a forward pass: where the context says that it is."""
        self._begin(self._phase, context.sequence_len_offset, context.batch_size_offset)


def pipelined(case: Case, chunk: GPTModel, tokens: torch.Tensor) -> None:
    """A forward pass over whole sequences, stage by stage where there are several; megatron-core makes the causal mask."""
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    stage, stages = parallel_state.get_pipeline_model_parallel_rank(), case.layout.pp
    if stage:
        shape = (tokens.shape[1], tokens.shape[0], case.model.hidden_size)
        received = torch.empty(shape, dtype=chunk.config.params_dtype, device=tokens.device)
        torch.distributed.recv(received, parallel_state.get_pipeline_model_parallel_prev_rank())
        chunk.set_input_tensor(received)
    output = chunk(tokens, positions, None, runtime_gather_output=True)
    if stage < stages - 1:
        torch.distributed.send(output.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
