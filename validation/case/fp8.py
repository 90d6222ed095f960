"""The rules that products in fp8 set, which are Transformer Engine's.

A rule takes the case and returns a sentence (what is wrong, and what would work instead) or None.
"""

from __future__ import annotations

from collections.abc import Iterator

from validation.case import joined_latents
from validation.case.case import Case
from validation.case.suggestions import multiples

STEP = 16
"""What cuBLAS's fp8 products take is a multiple of this in every dimension."""
BLOCK = 128
"""Elements that have a scale in common; what Transformer Engine gathers in blocks must be made of whole ones."""
_PADDING = ("moe_router_padding_for_quantization", "moe_router_padding_for_fp8")
"""The field, and its old name."""


def has_a_reference(case: Case) -> str | None:
    """The reference rounds as delayed scaling does, and as blockwise does: in no other pair of format and recipe."""
    model = case.training.effective("model")
    if model.get("fp8") is None or case.training.fp8 != "none":
        return None
    return (
        f"model.fp8={model['fp8']} with model.fp8_recipe={model.get('fp8_recipe')} has no formula in the reference; hybrid "
        "with delayed (--fp8 delayed), or e4m3 with blockwise (--fp8 blockwise) works"
    )


def padded_tokens_have_products(case: Case) -> str | None:
    """megatron-core's configuration has experts' tokens padded for products in fp8 alone, and not by the dispatcher allgather.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/transformer_config.py (`__post_init__`)
    """
    model = case.training.effective("model")
    name = next((name for name in _PADDING if model.get(name)), None)
    if name is None:
        return None
    if model.get("fp8") is None:
        return f"model.{name}=true pads tokens for products in fp8, and this case has none; leave it out"
    if model.get("moe_token_dispatcher_type") == "allgather":
        return f"model.{name}=true is not of the dispatcher allgather; --dispatcher alltoall has it, or leave it out"
    return None


def needs_transformer_engine(case: Case) -> str | None:
    """Transformer Engine's linear layers alone compute in fp8, for models in bf16."""
    fp8 = case.training.fp8
    if fp8 == "none":
        return None
    if not case.uses_te:
        return (
            f"+fp8-{fp8}: products in fp8 are Transformer Engine's; --implementation te has them, or leave out +fp8-{fp8} "
            f"(--fp8 {fp8})"
        )
    if case.precision != "bf16":
        return f"+fp8-{fp8}: products in fp8 need a bf16 model and the precision is {case.precision}; --precision bf16 works"
    return None


def compares_whole_steps(case: Case) -> str | None:
    """The floor is measured on the whole HuggingFace model, from the first step's scales and a loss added up over tokens."""
    fp8, training = case.training.fp8, case.training
    if fp8 == "none":
        return None
    unable = {
        "isolated modules (leave out --isolated)": case.isolated,
        "model layer by layer (leave out --stream, and take a preset or layers that fit)": training.stream,
        "Megatron checkpoint, which may bring scales of its own (leave out --candidate-checkpoint)": (
            case.candidate_checkpoint is not None
        ),
    }
    delayed = {
        "mean of means as its loss, whose gradients are lost with the first step's scale of 1 (--loss token works)": (
            training.loss != "token"
        ),
        "selective recomputation of norms, which Megatron-Core refuses (--recompute full works)": (
            training.recompute == "selective"
        ),
    }
    found = next((what for what, there in (unable | (delayed if fp8 == "delayed" else {})).items() if there), None)
    return f"+fp8-{fp8} has no {found}" if found else None


def products_fit(case: Case) -> str | None:
    """Each product's dimensions are what Transformer Engine and cuBLAS take, on every rank."""
    fp8 = case.training.fp8
    if fp8 == "none":
        return None
    for what, size in _sizes(case):
        if size % STEP:
            return f"+fp8-{fp8} takes products whose dimensions are multiples of {STEP}; {_unfit(what, size, STEP)}"
    step = gathered(case)
    for what, size in _gathered(case):
        if size % step:
            return (
                f"+fp8-blockwise with sequence parallelism gathers blocks of {BLOCK}; {_unfit(what, size, BLOCK)}, and a "
                "layout with tp1 works"
            )
    return None


def gathered(case: Case) -> int:
    """What the widths of hidden states and latents, and the tokens of a micro-batch on a rank, are multiples of."""
    return BLOCK if case.training.fp8 == "blockwise" and case.layout.uses_sequence_parallel else STEP


def _unfit(what: str, size: int, step: int) -> str:
    return f"{what} is {size}, and {multiples(size, step)} works"


def _sizes(case: Case) -> Iterator[tuple[str, int]]:
    """Every dimension of the products on a rank, in words."""
    model, layout = case.model, case.layout
    tp = f" / tp{layout.tp}" if layout.tp > 1 else ""
    heads = model.num_attention_heads // layout.tp
    yield from _widths(case)
    latent = model.kv_lora_rank + model.qk_rope_head_dim
    if joined_latents.are_joined(case):
        joined = (latent + (model.q_lora_rank or 0)) // layout.tp
        yield f"(q_lora_rank + kv_lora_rank + qk_rope_head_dim){tp}", joined
    else:
        yield "kv_lora_rank + qk_rope_head_dim", latent
    yield f"num_attention_heads{tp} * (qk_nope_head_dim + qk_rope_head_dim)", heads * model.query_head_dim
    yield f"num_attention_heads{tp} * (qk_nope_head_dim + v_head_dim)", heads * (model.qk_nope_head_dim + model.v_head_dim)
    yield f"num_attention_heads{tp} * v_head_dim", heads * model.v_head_dim
    if model.dense_layers:
        yield f"intermediate_size{tp}", model.intermediate_size // layout.tp
    if model.moe_layers:
        etp = f" / etp{layout.expert_tp}" if layout.expert_tp > 1 else ""
        yield f"moe_intermediate_size{etp}", model.moe_intermediate_size // layout.expert_tp
        if model.n_shared_experts:
            shared = model.n_shared_experts * model.moe_intermediate_size // layout.tp
            yield f"n_shared_experts * moe_intermediate_size{tp}", shared
    yield _rows(case)


def _gathered(case: Case) -> Iterator[tuple[str, int]]:
    """What of a rank's part of the sequence is gathered before column-parallel products."""
    yield from _widths(case)
    yield _rows(case)


def _widths(case: Case) -> Iterator[tuple[str, int]]:
    """Of the hidden states and the latents."""
    model = case.model
    yield "hidden_size", model.hidden_size
    if model.q_lora_rank is not None:
        yield "q_lora_rank", model.q_lora_rank
    yield "kv_lora_rank", model.kv_lora_rank


def _rows(case: Case) -> tuple[str, int]:
    """The tokens of a micro-batch on a rank."""
    layout = case.layout
    cuts = {"cp": layout.cp, "tp": layout.tp if layout.uses_sequence_parallel else 1}
    words = "".join(f" / {word}{cut}" for word, cut in cuts.items() if cut > 1)
    size = case.micro_batch_size * case.seq_length // (cuts["cp"] * cuts["tp"])
    return f"the tokens of a micro-batch on a rank (micro_batch_size * seq_length{words})", size


RULES = (has_a_reference, padded_tokens_have_products, needs_transformer_engine, compares_whole_steps, products_fit)
