"""Where releases of megatron-core differ in how their inference is called."""

from __future__ import annotations

import inspect
from typing import Any

from validation.case.case import Case
from validation.case.errors import EnvironmentMissing
from validation.case.inference import BLOCK
from validation.compare.precision import DTYPES, unpromoted


def wrapped(wrapper: Any, case: Case, chunk: Any, context: Any, at_once: int) -> Any:
    """The model in megatron-core's wrapper. `at_once` is how many tokens one forward pass of a pipeline takes at most.

    Since 0.17 it stands in the model's configuration, and the wrapper takes none of its own.
    """
    if "inference_wrapper_config" not in inspect.signature(wrapper.__init__).parameters:
        return wrapper(chunk, context)
    from megatron.core.inference.model_inference_wrappers.inference_wrapper_config import InferenceWrapperConfig

    return wrapper(
        chunk,
        InferenceWrapperConfig(
            hidden_size=case.model.hidden_size,
            params_dtype=DTYPES[case.precision],
            inference_batch_times_seqlen_threshold=at_once,
            padded_vocab_size=case.model.vocabulary_rows,
            inference_max_requests=case.batch_size,
            inference_max_seq_length=context.max_sequence_length,
        ),
        context,
    )


def materialize(context: Any, *, last_alone: bool) -> None:
    """Have a forward pass make logits of last tokens alone, or of all. Since 0.17 the context's configuration says it."""
    where = context.config if hasattr(context, "config") else context
    where.materialize_only_last_token_logits = last_alone


def dynamic_context(kind: Any, case: Case, chunk: Any, requests: int, length: int) -> Any:
    """A dynamic context for so many requests of at most so many tokens each, with latents cached in blocks."""
    model, layers = case.model, len(chunk.decoder.layers)
    latent = model.kv_lora_rank + model.qk_rope_head_dim
    block = DTYPES[case.precision].itemsize * layers * BLOCK * latent
    blocks = 2 + requests * -(-length // BLOCK)
    # In whole groups of what the context rounds to, which tensor-parallel ranks divide.
    given = {
        "max_sequence_length": length,
        "buffer_size_gb": (blocks + 1) * block / (1 << 30),
        "max_requests": 4 * case.layout.tp * -(-requests // (4 * case.layout.tp)),
        "max_tokens": 64 * case.layout.tp * -(-requests * length // (64 * case.layout.tp)),
        "block_size_tokens": BLOCK,
        "materialize_only_last_token_logits": False,
        "use_flashinfer_fused_rope": False,
    }
    taken = set(inspect.signature(kind.__init__).parameters)
    if {"buffer_size_gb", "max_requests"} <= taken:
        return kind(
            params_dtype=DTYPES[case.precision],
            num_layers=layers,
            kv_channels=model.v_head_dim,
            num_attention_heads=model.num_attention_heads,
            cache_mla_latent=True,
            kv_lora_rank=model.kv_lora_rank,
            qk_pos_emb_head_dim=model.qk_rope_head_dim,
            **given,
        )
    try:
        from megatron.core.inference.config import InferenceConfig
    except ImportError as missing:
        raise EnvironmentMissing("+dynamic needs Megatron-Core 0.16 or later; +static runs with this one") from missing
    given |= {"enable_prefix_caching": True}
    if hasattr(chunk.config, "inference_moe_token_dispatcher_type"):
        # The context makes room for one of two dispatchers (0.18), which these layers do not have. The other needs NVLink.
        chunk.config.inference_moe_token_dispatcher_type = "nccl"
    # Its books are views of bytes: in fp64 each number of four bytes would be asked for with eight.
    with unpromoted():
        return kind(chunk.config, InferenceConfig(**given))


def request(kind: Any, context: Any, number: int, prompt: Any, sampling: Any) -> Any:
    """A request. Where the context reuses prefixes, it gets the hashes of its prompt's blocks."""
    reusing = {"block_size_tokens": BLOCK, "enable_prefix_caching": True} if reuses_prefixes(context) else {}
    return kind(request_id=number, prompt_tokens=prompt, sampling_params=sampling, **reusing)


def reuses_prefixes(context: Any) -> bool:
    """Whether a prompt that begins as another one takes that one's blocks. Since 0.17."""
    return bool(getattr(context, "enable_prefix_caching", False))


def add_chunk(context: Any, request: Any, length: int) -> None:
    """Hand over the first tokens of a request. Since 0.17 their number has another name."""
    name = "chunk_length" if "chunk_length" in inspect.signature(context.add_request).parameters else "prefill_chunk_length"
    context.add_request(request, **{name: length})
