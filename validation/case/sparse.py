"""Sparse attention (DSA): each query attends to the keys that an indexer chooses. The rules for it. No torch.

A rule takes the case and returns a sentence (what is wrong, and what would work instead) or None.
"""

from __future__ import annotations

from collections.abc import Callable

from validation.case.case import Case
from validation.case.data import FULL
from validation.case.plural import many

VARIANT = "dsa"
"""What megatron-core calls it."""
SHAPE = (
    "model.experimental_attention_variant",
    "model.dsa_indexer_topk",
    "model.dsa_indexer_n_heads",
    "model.dsa_indexer_head_dim",
    "model.dsa_indexer_rope_interleaved",
)
"""Fields that the numbers of a model with sparse attention say."""
KEY_NORM, ROTATED = "model.dsa_indexer_k_norm_epsilon", "model.dsa_indexer_rotate_activation"
"""Fields that Plumbline sets in such a model (validation.candidate.sparse), whatever upstream's own values are."""
KEY_NORM_EPSILON = 1e-6
"""That of transformers' indexer."""
OLDEST = (0, 19)
"""The first release whose indexer rotates HuggingFace's elements (docs/findings/indexer-rotates-other-elements.md)."""


def too_old(version: str) -> str | None:
    """Why a release of megatron-core cannot be compared, None if it can; `version` may be any text."""
    numbers = version.split(".")[:2]
    if not all(number.isdigit() for number in numbers) or tuple(map(int, numbers)) >= OLDEST:
        return None
    why = "has no sparse attention (DSA)"
    if tuple(map(int, numbers)) >= (0, 16):
        why = "rotates other elements of the indexer than HuggingFace, so that it chooses other keys by design"
    return f"megatron-core {version} {why}; 0.19 and later compute what HuggingFace does (Python 3.12, or --megatron-path)"


def the_indexer_is_whole(case: Case) -> str | None:
    """All sizes of the indexer are given, or none, and it reads a query latent."""
    model = case.model
    sizes = {"index_topk": model.index_topk, "index_n_heads": model.index_n_heads, "index_head_dim": model.index_head_dim}
    missing = [name for name, size in sizes.items() if size is None]
    if len(missing) == len(sizes):
        return None
    if missing:
        given = next(name for name, size in sizes.items() if size is not None)
        return f"{given} is of sparse attention (DSA), which needs {' and '.join(missing)}, too; give all three, or none"
    if model.q_lora_rank is None:
        return (
            "the indexer of sparse attention (DSA) reads the query latent, and q_lora_rank is none; --set q_lora_rank=24 works"
        )
    if (model.index_head_dim or 0) < model.qk_rope_head_dim:
        return (
            f"index_head_dim {model.index_head_dim} is less than the {many(model.qk_rope_head_dim, 'rotary element')} "
            f"(qk_rope_head_dim) that the indexer shares; index_head_dim {model.qk_rope_head_dim} works"
        )
    return None


def what_is_not_compared(case: Case) -> str | None:
    """What one of the libraries lacks beside sparse attention, or Plumbline does not compare beside it."""
    if not case.model.sparse:
        return None
    return next(
        (f"{what} cannot be compared with sparse attention (DSA): {why}" for there, what, why in _beside(case) if there), None
    )


def _beside(case: Case) -> tuple[tuple[bool, str, str], ...]:
    """What a case may have, whether it has it, and why that cannot be compared, with what works."""
    training, layout = case.training, case.layout
    whole = layout.tp > 1 and not layout.sequence_parallel
    plain = layout.name.replace("nosp", "")
    return (
        (layout.cp > 1, f"cp{layout.cp}", "its keys are compared on ranks that have the whole sequence; cp1 works"),
        (whole, layout.name, f"Megatron-Core asserts sequence parallelism with it; {plain} works"),
        (bool(case.model.mtp_layers), "+mtp", f"transformers makes no MTP layer of its configuration; {layout.name} works"),
        (
            training.data_shape != FULL,
            f"+{training.data_shape}",
            "keys are compared in sequences of one document; leave it out",
        ),
        (
            training.inference != "none",
            f"+{training.inference}",
            "Megatron-Core's attention has no inference then; leave it out",
        ),
        (training.stream, "--stream", "it needs the whole model; --hf-model-path with --layers takes some of its layers"),
        (training.fp8 != "none", f"+fp8-{training.fp8}", "the reference has no indexer in fp8; the same case without it works"),
        (
            case.implementation == "local-stock",
            "local-stock",
            "Megatron-Core has no layer spec for it without Transformer Engine; --implementation local works",
        ),
    )


RULES: tuple[Callable[[Case], str | None], ...] = (the_indexer_is_whole, what_is_not_compared)
