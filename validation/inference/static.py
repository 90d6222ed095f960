"""megatron-core's inference with a static context: the prompt in one pass, then the given tokens one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from validation.case.inference import DECODE, FULL, GENERATED, GENERATION, IDLE, PREFILL, UPDATED, prompt_length, rows
from validation.compare.sliced import SlicedFile
from validation.inference.answers import Answers
from validation.inference.padding import decoding
from validation.inference.versions import materialize, wrapped
from validation.inference.watch import Watch
from validation.reference.store import Reference

Progress = Callable[[str], None]
Forward = Callable[[int, int], torch.Tensor | None]


class Inference:
    """One rank's model with its tokens: those of its data-parallel share of the batch."""

    def __init__(self, case: Case, chunk: GPTModel, recorder: Recorder, stored: Reference, progress: Progress) -> None:
        self._case, self._chunk, self._progress = case, chunk, progress
        self._watch, self._answers = Watch(case, chunk, recorder, stored), Answers(case, recorder, stored)
        self._rows = rows(case, Place.here(case).dp)
        self._first = self._rows.start
        self._tokens = SlicedFile(stored.batch, device()).read("0/tokens", (self._rows, slice(None)))
        if case.on_cpu:
            platform.stages_on_the_cpu()
        chunk.eval()
        if case.layout.tp > 1 and case.layout.ep > 1:
            # As megatron-core's own generation does before its first forward pass.
            set_model_to_sequence_parallel(chunk, False, exclude_modules=[BaseMoELayer])

    @torch.no_grad()
    def run(self, update: Callable[[], None]) -> None:
        """All phases, each compared as it is computed: with the weights that are there, and with those that `update` brings."""
        for prefix in ("", UPDATED):
            self._progress(f"{prefix}full forward".replace("-", " "))
            self._begin(f"{prefix}{FULL}")
            self._whole()
            self._progress(f"{prefix}prefill and decode".replace("-", " "))
            self._cached(prefix)
            if not prefix:
                update()
        self._progress("generation")
        self._generate()

    def _whole(self) -> None:
        """The candidate's own forward pass over whole sequences."""
        decoding(self._case, self._chunk, False)
        if len(self._tokens):
            self._watch.returned(pipelined(self._case, self._chunk, self._tokens))
        else:
            self._idle(None)

    def _idle(self, wrapper: Any) -> None:
        """The forward pass of an expert rank without sequences, which the others need; nothing of it is compared."""
        self._watch.now.phase = IDLE
        if hasattr(wrapper, "dummy_forward"):
            wrapper.dummy_forward()
            return
        # What that does in releases that have it: one token for each tensor-parallel rank.
        tokens = torch.zeros(1, self._case.layout.tp, dtype=torch.long, device=device())
        self._chunk(tokens, torch.zeros_like(tokens), None)

    def _begin(self, phase: str, position: int = 0, row: int = 0) -> None:
        now = self._watch.now
        now.phase, now.position, now.row = phase, position, self._first + row
        now.weights = GENERATION if phase == GENERATION else UPDATED if phase.startswith(UPDATED) else ""

    def _cached(self, prefix: str) -> None:
        """Prefill and decode of the given tokens."""
        prompt, phase = prompt_length(self._case), f"{prefix}{PREFILL}"
        with self._following(self._tokens, lambda: phase) as (context, forward):
            # Of a prompt megatron-core makes the last token's logits alone, unless log-probabilities are asked for.
            materialize(context, last_alone=False)
            forward(0, prompt)
            materialize(context, last_alone=True)
            self._decode(context)
            phase = f"{prefix}{DECODE}"
            for position in range(prompt, self._tokens.shape[1]):
                forward(position, position + 1)

    def _generate(self) -> None:
        """The token with the largest logit behind each prompt; HuggingFace's is what the candidate goes on with."""
        prompt = prompt_length(self._case)
        given = self._answers.tokens(self._rows)
        tokens = torch.cat([self._tokens[:, :prompt], given], 1)
        with self._following(tokens, lambda: GENERATION) as (context, forward):
            self._answers.compare(self._first, 0, forward(0, prompt))
            self._decode(context)
            for step in range(1, GENERATED):
                self._answers.compare(self._first, step, forward(prompt + step - 1, prompt + step))

    def _decode(self, context: Any) -> None:
        context.enable_decode_mode()
        decoding(self._case, self._chunk, True)

    @contextmanager
    def _following(self, tokens: torch.Tensor, phase: Callable[[], str]) -> Iterator[tuple[Any, Forward]]:
        """A fresh context, and a forward pass over the tokens from one position to another, with the logits that it makes.

        What it computes is compared in the phase that `phase` says.
        """
        held, length = tokens.shape
        context = StaticInferenceContext(max_batch_size=max(1, held), max_sequence_length=length)
        # Half of the sequences at a time: with pipeline stages the prompt is prefilled in micro-batches.
        at_once = max(1, held // 2) * prompt_length(self._case)
        wrapper = wrapped(GPTInferenceWrapper, self._case, self._chunk, context, at_once)
        wrapper.prep_model_for_inference()
        given = wrapper.prep_inference_input(tokens) if held else {}

        decoding(self._case, self._chunk, False)

        def forward(start: int, stop: int) -> torch.Tensor | None:
            if not held:
                self._idle(wrapper)
                return None
            logits: torch.Tensor | None = wrapper.run_one_forward_step(wrapper.get_batch_for_context_window(given, start, stop))
            self._begin(phase(), start)  # of all sequences again: a pipeline takes some at a time
            self._watch.returned(logits)
            return logits

        def moved(*_: Any) -> None:
            if held:
                self._begin(phase(), context.sequence_len_offset, context.batch_size_offset)

        moving = self._chunk.register_forward_pre_hook(moved)
        try:
            yield context, forward
        finally:
            moving.remove()


def pipelined(case: Case, chunk: GPTModel, tokens: torch.Tensor) -> torch.Tensor | None:
    """A forward pass over whole sequences, stage by stage where there are several; megatron-core makes the causal mask.

    Returns the logits, [sequences, positions, vocabulary]; None of a stage that is not the last.
    """
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    stage, stages = parallel_state.get_pipeline_model_parallel_rank(), case.layout.pp
    if stage:
        length = tokens.shape[1] // (case.layout.tp if chunk.config.sequence_parallel else 1)
        shape = (length, tokens.shape[0], case.model.hidden_size)
        received = torch.empty(shape, dtype=chunk.config.params_dtype, device=tokens.device)
        torch.distributed.recv(received, parallel_state.get_pipeline_model_parallel_prev_rank())
        chunk.set_input_tensor(received)
    output: torch.Tensor = chunk(tokens, positions, None, runtime_gather_output=True)
    if stage == stages - 1:
        return output
    torch.distributed.send(output.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
    return None
