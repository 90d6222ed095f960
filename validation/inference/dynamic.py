"""megatron-core's inference with a dynamic context: requests of several lengths that come and go, latents cached in blocks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import torch
from megatron.core.inference.contexts.dynamic_context import DynamicInferenceContext
from megatron.core.inference.inference_request import DynamicInferenceRequest
from megatron.core.inference.model_inference_wrappers.gpt.gpt_inference_wrapper import GPTInferenceWrapper
from megatron.core.inference.sampling_params import SamplingParams
from megatron.core.models.gpt import GPTModel

from validation.candidate.place import device
from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.case.errors import EnvironmentMissing
from validation.case.inference import BLOCK, CHUNK, FULL, UPDATED, Arrival, arrivals
from validation.compare.precision import DTYPES
from validation.compare.sliced import SlicedFile
from validation.inference import kernels
from validation.inference.static import Progress, pipelined
from validation.inference.versions import makes_dynamic_contexts, wrapped
from validation.inference.watch import Run, Watch
from validation.reference.store import Reference

_GIB = 1 << 30


class Dynamic:
    """One rank's model and the requests of a case: its sequences, each with a prompt of its own length."""

    def __init__(self, case: Case, chunk: GPTModel, recorder: Recorder, stored: Reference, progress: Progress) -> None:
        self._case, self._chunk, self._progress = case, chunk, progress
        self._watch = Watch(case, chunk, recorder, stored)
        self._tokens = SlicedFile(stored.batch, device()).read("0/tokens")
        chunk.eval()

    @torch.no_grad()
    def run(self, update: Callable[[], None]) -> None:
        """The full forward, then all requests with the weights that are there and with those that `update` brings."""
        self._progress("full forward")
        self._watch.now.phase = FULL
        pipelined(self._case, self._chunk, self._tokens)
        self._cache_latents()
        for prefix in ("", UPDATED):
            self._progress(f"{prefix}requests".replace("-", " "))
            self._serve(prefix)
            if not prefix:
                update()

    def _cache_latents(self) -> None:
        """As if the model had been built for it; its own full forward, the witness, needs a model that does not absorb."""
        self._chunk.config.cache_mla_latents = True
        for layer in self._chunk.decoder.layers:
            layer.self_attention.cache_mla_latents = True

    def _serve(self, prefix: str) -> None:
        """Every request from its first token to its last, as many at a time as have come and not gone."""
        context, waiting, step = self._context(), list(arrivals(self._case)), 0
        wrapper = wrapped(GPTInferenceWrapper, self._case, self._chunk, context, 0)
        wrapper.prep_model_for_inference()
        chunked: DynamicInferenceRequest | None = None
        with kernels.standing_in(context):
            while waiting or chunked or context.has_unfinished_requests():
                if chunked is not None:
                    context.chunked_prefill_request_id = -1
                    context.add_request(chunked)
                    chunked = None
                while chunked is None and waiting and waiting[0].step <= step:
                    chunked = self._add(context, waiting.pop(0))
                context.initialize_attention_state()
                self._follow(context, prefix)
                tokens, positions = context.current_input_and_position_ids()
                wrapper.run_one_forward_step({"tokens": tokens, "position_ids": positions, "attention_mask": None})
                self._go_on(context)
                step += 1

    def _context(self) -> DynamicInferenceContext:
        if not makes_dynamic_contexts(DynamicInferenceContext):
            raise EnvironmentMissing("+dynamic needs the dynamic context of Megatron-Core 0.16; +static runs with this one")
        case, model = self._case, self._case.model
        latent = model.kv_lora_rank + model.qk_rope_head_dim
        block = DTYPES[case.precision].itemsize * model.num_hidden_layers * BLOCK * latent
        blocks = 1 + case.batch_size * -(-case.seq_length // BLOCK)
        return DynamicInferenceContext(
            params_dtype=DTYPES[case.precision],
            num_layers=model.num_hidden_layers,
            kv_channels=model.v_head_dim,
            num_attention_heads=model.num_attention_heads,
            max_sequence_length=case.seq_length,
            buffer_size_gb=(blocks + 1) * block / _GIB,
            max_requests=4 * -(-case.batch_size // 4),
            max_tokens=case.batch_size * case.seq_length,
            block_size_tokens=BLOCK,
            cache_mla_latent=True,
            kv_lora_rank=model.kv_lora_rank,
            qk_pos_emb_head_dim=model.qk_rope_head_dim,
            materialize_only_last_token_logits=False,
            use_flashinfer_fused_rope=False,
        )

    def _add(self, context: DynamicInferenceContext, arrival: Arrival) -> DynamicInferenceRequest | None:
        """Hand a request over, of a prompt that is taken in in chunks the first; returns one that is not whole yet."""
        row, prompt = arrival.row, arrival.prompt
        rest = SamplingParams(num_tokens_to_generate=self._case.seq_length - prompt, termination_id=-1)
        request = DynamicInferenceRequest(request_id=row, prompt_tokens=self._tokens[row, :prompt], sampling_params=rest)
        if not arrival.chunked:
            context.add_request(request)
            return None
        # As megatron-core's engine does when a prompt does not fit into a step.
        context.add_request(request, chunk_length=CHUNK)
        context.chunked_prefill_request_id = row
        request.remaining_prompt_tokens = request.remaining_prompt_tokens[CHUNK:]
        request.finished_chunk_token_count += CHUNK
        return request

    def _follow(self, context: DynamicInferenceContext, prefix: str) -> None:
        """Where the context says that each token of the coming step stands: its request, and its position in it."""
        count = context.active_token_count
        requests = context.request_ids[context.token_to_request_idx[:count]].tolist()
        places = enumerate(zip(requests, context.token_to_pos_ids[:count].tolist(), strict=True))
        runs = []
        # A run of one request has positions that go up with the place in the step.
        for (row, _), found in groupby(places, key=lambda one: (one[1][0], one[1][1] - one[0])):
            at = list(found)
            runs.append(Run(at[0][0], at[-1][0] + 1, row, at[0][1][1]))
        self._watch.follow(prefix, runs)

    def _go_on(self, context: DynamicInferenceContext) -> None:
        """Give every request its next token; one that has none is done."""
        active = slice(context.paused_request_count, context.total_request_count)
        rows = context.request_ids[active].long()
        taken = (context.request_kv_length_offsets + context.request_query_lengths)[active].long()
        length = self._tokens.shape[1]
        context.update_requests((taken < length).int(), self._tokens[rows, taken.clamp(max=length - 1)])
