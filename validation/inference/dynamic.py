"""megatron-core's inference with a dynamic context: requests of several lengths that come and go, latents cached in blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

import torch
from megatron.core.inference.contexts.dynamic_context import DynamicInferenceContext
from megatron.core.inference.inference_request import DynamicInferenceRequest
from megatron.core.inference.model_inference_wrappers.gpt.gpt_inference_wrapper import GPTInferenceWrapper
from megatron.core.inference.sampling_params import SamplingParams
from megatron.core.models.gpt import GPTModel

from validation.candidate import platform
from validation.candidate.place import Place, device
from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.case.inference import (
    BLOCK,
    CHUNK,
    FULL,
    GENERATED,
    GENERATION,
    UPDATED,
    Arrival,
    arrivals,
    prompt_lengths,
    rows,
)
from validation.compare.sliced import SlicedFile
from validation.inference import kernels
from validation.inference.answers import Answers
from validation.inference.padding import decoding
from validation.inference.replay import Run
from validation.inference.static import Progress, pipelined
from validation.inference.versions import add_chunk, dynamic_context, reuses_prefixes, wrapped
from validation.inference.versions import request as made_request
from validation.inference.watch import Watch
from validation.reference.store import Reference


class Dynamic:
    """One rank's model and its requests: the sequences of its data-parallel share, each with a prompt of its own length."""

    def __init__(self, case: Case, chunk: GPTModel, recorder: Recorder, stored: Reference, progress: Progress) -> None:
        self._case, self._chunk, self._progress = case, chunk, progress
        self._watch, self._answers = Watch(case, chunk, recorder, stored), Answers(case, recorder, stored)
        self._tokens = SlicedFile(stored.batch, device()).read("0/tokens")
        self._rows = rows(case, Place.here(case).dp)
        self._arrivals = [one for one in arrivals(case) if self._rows.start <= one.row < self._rows.stop]
        if case.on_cpu:
            platform.stages_on_the_cpu()
            platform.requests_on_the_cpu()
        chunk.eval()

    @torch.no_grad()
    def run(self, update: Callable[[], None]) -> None:
        """The full forward, all requests with the weights that are there and with those of `update`, and generation."""
        self._progress("full forward")
        self._watch.now.phase, self._watch.now.row = FULL, self._rows.start
        self._watch.returned(pipelined(self._case, self._chunk, self._tokens[self._rows]))
        self._cache_latents()
        length = self._tokens.shape[1]
        for prefix in ("", UPDATED):
            self._progress(f"{prefix}requests".replace("-", " "))
            self._serve(prefix, self._tokens, [length] * len(self._tokens))
            if not prefix:
                update()
        self._progress("generation")
        # The last token that is generated is the answer to the one before it, and is not taken in.
        lengths = [prompt + GENERATED - 1 for prompt in prompt_lengths(self._case)]
        self._serve(GENERATION, self._generated(max(lengths)), lengths)

    def _generated(self, length: int) -> torch.Tensor:
        """Each prompt with HuggingFace's answer behind it, [batch, length]."""
        answers = self._answers.tokens(slice(0, len(self._tokens)))
        found = self._tokens.new_zeros(len(self._tokens), length + 1)
        for row, prompt in enumerate(prompt_lengths(self._case)):
            found[row, :prompt] = self._tokens[row, :prompt]
            found[row, prompt : prompt + GENERATED] = answers[row]
        return found

    def _cache_latents(self) -> None:
        """As if the model had been built for it; its own full forward, the witness, needs a model that does not absorb."""
        self._chunk.config.cache_mla_latents = True
        for layer in self._chunk.decoder.layers:
            layer.self_attention.cache_mla_latents = True

    def _serve(self, prefix: str, tokens: torch.Tensor, lengths: list[int]) -> None:
        """Every request from its first token to its last, as many at a time as have come and not gone."""
        context, step = self._context(max(lengths)), 0
        waiting = self._waiting(context, prefix)
        wrapper = wrapped(GPTInferenceWrapper, self._case, self._chunk, context, tokens.numel())
        wrapper.prep_model_for_inference()
        chunked: DynamicInferenceRequest | None = None
        with kernels.standing_in(self._case, context):
            while waiting or chunked or context.has_unfinished_requests():
                if chunked is not None:
                    context.chunked_prefill_request_id = -1
                    context.add_request(chunked)
                    chunked = None
                while chunked is None and waiting and waiting[0].step <= step:
                    chunked = self._add(context, waiting.pop(0), tokens, lengths)
                context.initialize_attention_state()
                runs = self._follow(context, prefix)
                decoding(self._case, self._chunk, context.is_decode_only())
                given, positions = context.current_input_and_position_ids()
                logits = wrapper.run_one_forward_step({"tokens": given, "position_ids": positions, "attention_mask": None})
                self._watch.returned(logits)
                if prefix == GENERATION:
                    self._answer(context, runs, logits)
                self._go_on(context, tokens, lengths)
                step += 1
        if any(one.again for one in self._waiting(context, prefix)) and not context.prefix_cache_hits:
            raise RuntimeError("no block of a prompt that came a second time was reused, though enable_prefix_caching is set")

    def _waiting(self, context: DynamicInferenceContext, prefix: str) -> list[Arrival]:
        """The requests in the order in which they come, and where prefixes are reused the first one a second time."""
        found = list(self._arrivals)
        if found and reuses_prefixes(context) and prefix != GENERATION:
            found.append(replace(found[0], step=found[0].step + 2, again=True))
        return sorted(found, key=lambda one: one.step)

    def _context(self, length: int) -> DynamicInferenceContext:
        return dynamic_context(DynamicInferenceContext, self._case, self._chunk, len(self._arrivals) + 1, length)

    def _add(
        self, context: DynamicInferenceContext, arrival: Arrival, tokens: torch.Tensor, lengths: list[int]
    ) -> DynamicInferenceRequest | None:
        """Hand a request over, of a prompt that is taken in in chunks the first; returns one that is not whole yet."""
        row, prompt = arrival.row, arrival.prompt
        rest = SamplingParams(num_tokens_to_generate=lengths[row] - prompt, termination_id=-1)
        number = row + (len(tokens) if arrival.again else 0)
        request = made_request(DynamicInferenceRequest, context, number, tokens[row, :prompt], rest)
        if not arrival.chunked:
            context.add_request(request)
            return None
        # As megatron-core's engine does when a prompt does not fit into a step.
        add_chunk(context, request, CHUNK)
        context.chunked_prefill_request_id = row
        request.remaining_prompt_tokens = request.remaining_prompt_tokens[CHUNK:]
        request.finished_chunk_token_count += CHUNK
        return request

    def _follow(self, context: DynamicInferenceContext, prefix: str) -> list[Run]:
        """Where the context says that each token of the coming step stands: its request, and its position in it."""
        count = context.active_token_count
        requests = (context.request_ids[context.token_to_request_idx[:count]] % len(self._tokens)).tolist()
        places = enumerate(zip(requests, context.token_to_pos_ids[:count].tolist(), strict=True))
        runs: list[Run] = []
        # A run of one request has positions that go up with the place in the step. It ends with its block: a request that takes
        # blocks of another one computes what stands behind them, and both are compared in the same parts.
        for (row, *_), found in groupby(places, key=lambda one: (one[1][0], one[1][1] - one[0], one[1][1] // BLOCK)):
            at = list(found)
            runs.append(Run(at[0][0], at[-1][0] + 1, row, at[0][1][1]))
        self._watch.now.weights, self._watch.now.runs = prefix, runs
        return runs

    def _answer(self, context: DynamicInferenceContext, runs: list[Run], logits: torch.Tensor | None) -> None:
        """Compare the token that each request would take next, once its prompt is whole.

        Which of the logits are those of its last token megatron-core says itself, as it does when it generates.
        """
        if logits is None:
            return
        last, prompts = context.last_token_logits(logits), prompt_lengths(self._case)
        order = (self._active(context, context.request_ids).long() % len(self._tokens)).tolist()
        for run in runs:
            step = run.position + run.stop - run.start - prompts[run.row]
            if step >= 0:
                self._answers.compare(run.row, step, last[order.index(run.row)][None, None])

    @staticmethod
    def _active(context: DynamicInferenceContext, of_requests: torch.Tensor) -> torch.Tensor:
        """The part of the books of requests that are computed."""
        return of_requests[context.paused_request_count : context.total_request_count]

    def _go_on(self, context: DynamicInferenceContext, tokens: torch.Tensor, lengths: list[int]) -> None:
        """Give every request its next token; one that has none is done."""
        rows = self._active(context, context.request_ids).long() % len(self._tokens)  # since 0.18 in host memory
        taken = self._active(context, context.request_kv_length_offsets + context.request_query_lengths).long()
        ends = torch.tensor(lengths, device=rows.device)[rows]
        following = tokens.to(rows.device)[rows, taken.clamp(max=tokens.shape[1] - 1)]
        context.update_requests((taken < ends).int(), following)
