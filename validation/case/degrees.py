"""The rules that parallel degrees set: what megatron-core cuts, it cuts into equal parts.

A rule takes the case and returns a sentence (what is wrong, and what would work instead) or None.
"""

from __future__ import annotations

import math

from validation.case import joined_latents, pipeline_layout, vocabulary
from validation.case.case import Case
from validation.case.plural import many
from validation.case.suggestions import multiples, nearest

_VOCABULARY = "rows of the vocabulary"


def local_stock_has_no_cp(case: Case) -> str | None:
    """megatron-core's DotProductAttention asserts cp == 1."""
    if case.layout.cp == 1 or case.implementation != "local-stock":
        return None
    return (
        "Megatron-Core's own core attention, which local-stock uses, has no context parallelism; "
        "--implementation local or te has, or choose a layout with cp1"
    )


def tp_divides(case: Case) -> str | None:
    """Whole heads, and equal shares of everything that tensor parallelism cuts."""
    model = case.model
    sizes = {"attention heads": model.num_attention_heads, _VOCABULARY: model.vocabulary_rows}
    if model.dense_layers:
        sizes["inner elements of the dense MLP (intermediate_size)"] = model.intermediate_size
    if model.moe_layers and model.n_shared_experts:
        shared = model.n_shared_experts * model.moe_intermediate_size
        sizes["inner elements of the shared expert (n_shared_experts * moe_intermediate_size)"] = shared
    if case.implementation == "local-stock" or joined_latents.are_joined(case):
        sizes |= {"elements of the KV latent (kv_lora_rank + qk_rope_head_dim)": model.kv_lora_rank + model.qk_rope_head_dim}
        sizes |= {"elements of the query latent (q_lora_rank)": model.q_lora_rank} if model.q_lora_rank else {}
    tp = case.layout.tp
    for what, size in sizes.items():
        if size % tp and what == _VOCABULARY:
            padded = vocabulary.rows(model.vocab_size, 1, tp)
            works = f"{case.arrangement}+vocab1 pads them to {padded}, as Megatron-LM does"
            if model.padded_vocab_size is not None:
                works = f"--set padded_vocab_size={vocabulary.rows(size, 1, tp)} works"
            return f"tp{tp} does not divide the {size} {what}; {works}"
        if size % tp:
            return f"tp{tp} does not divide the {size} {what}; {nearest(tp, math.gcd(*sizes.values()), 'tp')}"
    return None


def etp_divides(case: Case) -> str | None:
    """Equal shares of each routed expert."""
    etp, size = case.layout.expert_tp, case.model.moe_intermediate_size
    if not case.model.moe_layers or size % etp == 0:
        return None
    return (
        f"etp{etp} does not divide the {many(size, 'inner element')} of an expert (moe_intermediate_size); "
        f"{nearest(etp, size, 'etp')}"
    )


def moe_has_sequence_parallelism(case: Case) -> str | None:
    """megatron-core's MoELayer raises in training with tp > 1 and whole sequences on each rank."""
    layout = case.layout
    if layout.tp == 1 or layout.sequence_parallel or not case.model.moe_layers:
        return None
    return (
        f"layout {layout.name}: Megatron-Core refuses to train experts with tp{layout.tp} and no sequence parallelism; "
        f"{layout.name.replace('nosp', '')} works"
    )


def sequence_divides(case: Case) -> str | None:
    """Sequence parallelism cuts a sequence by tp; context parallelism cuts it in 2 * cp chunks first (zigzag)."""
    layout = case.layout
    tp = layout.tp if layout.uses_sequence_parallel else 1
    needed = math.lcm(2 * layout.cp if layout.cp > 1 else 1, tp * layout.cp)
    if case.seq_length % needed == 0:
        return None
    return (
        f"layout {layout.name} cuts sequences into equal parts, so that their length must be a multiple of {needed}, which "
        f"{case.seq_length} is not; --seq-length {multiples(case.seq_length, needed)} works"
    )


def cp_divides_rotary_table(case: Case) -> str | None:
    """megatron-core's yarn (since 0.13) makes a table of cos and sin for all original positions, and cuts it like a sequence.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/models/common/embeddings/yarn_rotary_pos_embedding.py
    (`_set_cos_sin_cache`, called by `__init__`).
    """
    cp, positions = case.layout.cp, case.model.original_max_position_embeddings
    if case.model.rope_type != "yarn" or cp == 1 or positions % (2 * cp) == 0:
        return None
    works = "only cp1 does" if positions % 2 else nearest(cp, positions // 2, "cp")
    return (
        f"cp{cp} does not cut Megatron-Core's table of yarn's {many(positions, 'position')} "
        f"(original_max_position_embeddings) into "
        f"{2 * cp} equal parts; {works}"
    )


def vpp_needs_pp(case: Case) -> str | None:
    """Virtual stages need stages."""
    layout = case.layout
    return f"vpp{layout.vpp} needs pp of at least 2; pp2vpp{layout.vpp} works" if layout.vpp > 1 and layout.pp == 1 else None


def pp_divides(case: Case) -> str | None:
    """Each stage, or virtual stage, gets as many layers as every other."""
    pp, vpp, layers = case.layout.pp, case.layout.vpp, case.model.num_hidden_layers
    if pipeline_layout.given(case):
        return None
    if layers % pp:
        return f"pp{pp} does not divide the {many(layers, 'layer')} into equal stages; {nearest(pp, layers, 'pp')}"
    if layers // pp % vpp:
        return (
            f"vpp{vpp} does not divide the {many(layers // pp, 'layer')} of a stage of pp{pp}; "
            f"{nearest(vpp, layers // pp, 'vpp')}, "
            "or another number of layers"
        )
    return None


def ep_has_experts(case: Case) -> str | None:
    """megatron-core refuses to spread the experts of a model that has none."""
    if case.layout.ep == 1 or case.model.moe_layers:
        return None
    return f"ep{case.layout.ep} spreads experts over ranks and the model has none; ep1 works, and dp for more ranks"


def ep_divides(case: Case) -> str | None:
    """As many whole experts on each rank."""
    ep, experts = case.layout.ep, case.model.n_routed_experts
    return f"ep{ep} does not divide the {many(experts, 'expert')}; {nearest(ep, experts, 'ep')}" if experts % ep else None


def experts_fill_ranks(case: Case) -> str | None:
    """The ranks of a stage fall into whole sets of expert ranks."""
    layout = case.layout
    ranks, experts = layout.tp * layout.cp * layout.data_parallel, layout.expert_tp * layout.ep
    if ranks % experts == 0:
        return None
    smallest = experts // math.gcd(experts, layout.tp * layout.cp)
    return (
        f"layout {layout.name} has {many(ranks, 'rank')} in a pipeline stage, not a multiple of the {experts} over "
        f"which its experts "
        f"are spread (etp{layout.expert_tp} * ep{layout.ep}); dp{smallest} works, or a multiple of it"
    )
