"""What makes a case impossible, said before anything starts.

A rule takes the case and returns a sentence (what is wrong, and what would work instead) or None. They are tried in order:
a rule may rely on those before it. Those of the machine come last.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, version

from packaging.version import InvalidVersion, Version

from validation.case import (
    data,
    degrees,
    fp8,
    inference,
    joined_latents,
    life,
    loss_scale,
    mtp,
    numbers,
    optimizers,
    pipeline_layout,
    remedies,
    schedule_rules,
    setting_rules,
    sparse,
    training_rules,
    tree,
    vocabulary,
)
from validation.case import memory as memory_
from validation.case.case import IMPLEMENTATIONS, PRECISIONS, TRANSPORTS, Case
from validation.case.errors import EnvironmentMissing, UsageError
from validation.case.families import GREEDY, GROUP_LIMITED, SIGMOID
from validation.case.memory import Estimate, estimate
from validation.case.plural import many
from validation.case.suggestions import join, multiples, nearest

__all__ = ["Estimate", "check", "estimate"]

Rule = Callable[[Case], str | None]
_OWN_IMPLEMENTATION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_MAY_BE_ZERO = ("n_shared_experts", "first_k_dense_replace", "num_nextn_predict_layers")


def check(
    case: Case,
    *,
    max_ranks: int,
    gpus: int | None,
    memory: int | None,
    card: int | None = None,
    share: int | None = None,
    taken: int = 0,
) -> None:
    """Returns when the case can run here.

    `max_ranks` is the most processes to start on the CPU, `gpus` the GPUs of this machine, `memory` its available bytes and
    `card` those of its fullest GPU (None: unknown, not checked), of which other processes have `taken`, `share` the most ranks
    that may share a GPU (None: any number). Raises UsageError for an impossible case and EnvironmentMissing for what this
    machine lacks.
    """
    for rule in RULES:
        if sentence := rule(case):
            raise UsageError(sentence)
    if case.on_cpu and case.layout.ranks > max_ranks:
        raise UsageError(
            f"layout {case.layout.name} needs {many(case.layout.ranks, 'rank')} and --max-ranks is {max_ranks}; "
            f"raise --max-ranks to {case.layout.ranks} or choose a smaller layout"
        )
    sentence = _too_few_gpus(case, gpus, share)
    if sentence is None and memory is not None:
        sentence = memory_.shortage(case, memory)
    if sentence is None and card is not None and gpus and not case.on_cpu:
        sentence = remedies.shortage(case, card, gpus, RULES, taken)
    if sentence:
        raise EnvironmentMissing(sentence)


# What the case is made of


def known_words(case: Case) -> str | None:
    """Precision, transport and implementation are among those that exist."""
    for word, value, known in (("precision", case.precision, PRECISIONS), ("transport", case.transport, TRANSPORTS)):
        if value not in known:
            return f"{word} {value!r} is unknown; known are {join(known)}"
    if case.implementation in IMPLEMENTATIONS or _OWN_IMPLEMENTATION.fullmatch(case.implementation):
        return None
    return (
        f"implementation {case.implementation!r} is unknown; known are {join(IMPLEMENTATIONS)}, or your own layer spec as "
        "package.module:function"
    )


def positive_numbers(case: Case) -> str | None:
    """Every size, count and degree is a whole number of at least 1, where 0 has no meaning."""
    model = {field.name: getattr(case.model, field.name) for field in fields(case.model) if str(field.type).startswith("int")}
    layout = {word: getattr(case.layout, word) for word in ("tp", "pp", "vpp", "ep", "etp", "cp", "dp")}
    data = {word: getattr(case, word) for word in ("batch_size", "micro_batch_size", "seq_length")}
    for word, number in (model | layout | data).items():
        least = 0 if word in _MAY_BE_ZERO else 1
        if number is not None and (type(number) is not int or number < least):
            return f"{word} is {number!r}; it must be a whole number of at least {least}"
    return None


def transformer_engine_runs(case: Case) -> str | None:
    """Transformer Engine's kernels need a GPU and have no fp64."""
    if not case.uses_te:
        return None
    if case.on_cpu:
        return (
            f"Transformer Engine needs GPUs, so {case.implementation} cannot run on {case.transport}; --implementation local "
            "can, or --transport nccl"
        )
    if case.implementation in ("te-fused", "te-flash") and case.precision == "fp32":
        return (
            f"Transformer Engine has fused and flash attention in bf16 and fp16 only, so {case.implementation} cannot run in "
            "fp32; --precision bf16 works, or --implementation te-unfused"
        )
    if case.precision == "fp64":
        return "Transformer Engine has no fp64 kernels; --precision fp32 works, or --implementation local in fp64"
    return None


def transformer_engine_splits_sequences(case: Case) -> str | None:
    """Of Transformer Engine's attentions the unfused one, which is its only one in fp32, has no context parallelism.

    https://github.com/NVIDIA/TransformerEngine/blob/v2.11/transformer_engine/pytorch/attention/dot_product_attention/utils.py
    """
    if not case.uses_te or case.layout.cp == 1 or (case.implementation != "te-unfused" and case.precision != "fp32"):
        return None
    what = "te-unfused" if case.implementation == "te-unfused" else f"{case.implementation} in {case.precision}"
    return (
        f"{what} cannot run with cp{case.layout.cp}: Transformer Engine's unfused attention, which has fp32, has no context "
        "parallelism; --implementation te --precision bf16 works, or --implementation local"
    )


def transformer_engine_exchanges_keys(case: Case) -> str | None:
    """Before Transformer Engine 2.15, keys and values of different sizes go around in a ring alone.

    https://github.com/NVIDIA/TransformerEngine/blob/v2.14.1/transformer_engine/pytorch/attention/dot_product_attention/context_parallel.py
    """
    model, cp = case.training.effective("model"), case.layout.cp
    kind, sizes = model.get("cp_comm_type") or "p2p", model.get("hierarchical_context_parallel_sizes")
    if kind == "a2a+p2p" and isinstance(sizes, tuple) and sizes == (cp, 1):
        kind = "a2a"
    sized = case.model.qk_nope_head_dim + case.model.qk_rope_head_dim != case.model.v_head_dim
    if not case.uses_te or cp == 1 or not sized or kind not in ("a2a", "all_gather"):
        return None
    with contextlib.suppress(PackageNotFoundError, InvalidVersion):  # not installed, or a build of one's own
        release = version("transformer-engine")
        if Version(release) < Version("2.15"):
            return (
                f"cp_comm_type={kind} cannot run with Transformer Engine {release}: before 2.15 its context parallelism has no "
                f"{kind} for keys and values of different sizes; cp_comm_type=p2p works"
            )
    return None


def groups_divide(case: Case) -> str | None:
    """The groups of experts are equal, and HuggingFace takes the two best of each."""
    model = case.model
    if not model.moe_layers or model.topk_method == GREEDY:
        return None
    experts, groups = model.n_routed_experts, model.n_group
    if experts % groups:
        return f"n_group {groups} does not divide the {many(experts, 'expert')}; {nearest(groups, experts, 'n_group ')}"
    if experts // groups < 2 and model.sigmoid:
        most = max((size for size in range(1, experts // 2 + 1) if experts % size == 0), default=0)
        works = f"n_group {most}" if most else "n_routed_experts 2"
        return f"n_group {groups} leaves groups of 1 expert, and a group is scored by its best 2; {works} works"
    return None


def enough_experts_in_chosen_groups(case: Case) -> str | None:
    """There are as many groups as are chosen, and as many experts in them."""
    model = case.model
    if not model.moe_layers or model.topk_method == GREEDY:
        return None
    if model.topk_group > model.n_group:
        return f"topk_group {model.topk_group} is more than n_group {model.n_group}; topk_group 1 to {model.n_group} works"
    within = model.n_routed_experts // model.n_group * model.topk_group
    if model.num_experts_per_tok > within:
        return (
            f"num_experts_per_tok {model.num_experts_per_tok} is more than the {many(within, 'expert')} of "
            f"{model.topk_group} chosen "
            f"groups; num_experts_per_tok up to {within} works"
        )
    return None


def experts_are_shared(case: Case) -> str | None:
    """HuggingFace builds a shared expert in every layer of experts; one without elements cannot be loaded."""
    if not case.model.expert_blocks or case.model.n_shared_experts:
        return None
    return "n_shared_experts is 0, and HuggingFace gives every layer of experts a shared one; n_shared_experts 1 works"


def experts_have_whole_rows(case: Case) -> str | None:
    """Floors have a run with transformers' grouped experts, and torch's grouped product takes rows of whole 16 bytes."""
    step = {"fp32": 4, "bf16": 8, "fp16": 8}.get(case.precision, 1)
    if not case.model.moe_layers:
        return None
    for name in ("hidden_size", "moe_intermediate_size"):
        if (size := getattr(case.model, name)) % step:
            return (
                f"{name} is {size}, and in {case.precision} HuggingFace's grouped experts, with which the floor is measured, "
                f"take multiples of {step}; {step * (size // step + 1)} works, or --precision fp64"
            )
    return None


def scores_are_normalised(case: Case) -> str | None:
    """megatron-core normalises the chosen scores only where there are two or more, HuggingFace always."""
    if not case.model.moe_layers or case.model.num_experts_per_tok > 1 or not case.model.sigmoid:
        return None
    return (
        "num_experts_per_tok is 1, where Megatron-Core does not normalise the router's weight as HuggingFace does; "
        f"num_experts_per_tok {2 * case.model.topk_group} works"
    )


def group_scores_agree(case: Case) -> str | None:
    """megatron-core scores a group by its best num_experts_per_tok // topk_group, HuggingFace always by its best 2.

    DeepSeek-V2's of HuggingFace by its best alone. It does not matter if all groups are chosen.
    """
    model = case.model
    if not model.moe_layers or model.topk_group == model.n_group or model.topk_method == GREEDY:
        return None
    best, wanted = model.num_experts_per_tok // model.topk_group, 2 if model.sigmoid else 1
    if (model.num_experts_per_tok == 2 * model.topk_group) if model.sigmoid else best == 1:
        return None
    return (
        f"Megatron-Core scores a group by its best {many(best, 'expert')} "
        f"(num_experts_per_tok {model.num_experts_per_tok} // topk_group {model.topk_group}) and HuggingFace by its best "
        f"{wanted}, so that the two choose other experts by design; num_experts_per_tok {wanted * model.topk_group} works, or "
        "n_group 1 with topk_group 1"
    )


def batch_divides(case: Case) -> str | None:
    """Every data-parallel rank gets whole micro-batches. Inference has none, and a rank may have no sequence."""
    step = case.layout.data_parallel * case.micro_batch_size
    if case.batch_size % step == 0 or case.training.inference == inference.STATIC:
        return None
    return (
        f"batch_size {case.batch_size} is not a multiple of dp{case.layout.data_parallel} * micro_batch_size "
        f"{case.micro_batch_size}; --batch-size {multiples(case.batch_size, step)} works"
    )


def vpp_fills_micro_batches(case: Case) -> str | None:
    """megatron-core's interleaved schedule takes micro-batches in sets of pp."""
    layout = case.layout
    if layout.vpp == 1 or case.micro_batches % layout.pp == 0:
        return None
    step = layout.pp * layout.data_parallel * case.micro_batch_size
    return (
        f"vpp{layout.vpp} takes micro-batches in sets of pp{layout.pp}, and the batch has {case.micro_batches} on each rank; "
        f"--batch-size {multiples(case.batch_size, step)} works"
    )


def resumes_where_it_can(case: Case) -> str | None:
    """A life's further layouts have as many ranks, and can run by themselves."""
    for layout in life.layouts(case.training.life):
        if layout.ranks != case.layout.ranks:
            return (
                f"+{case.training.life} goes on in {layout.name}, which has {many(layout.ranks, 'rank')}, and "
                f"{case.layout.name} has "
                f"{case.layout.ranks}; resume in a layout of as many ranks"
            )
        other = replace(case, layout=layout, training=replace(case.training, life=""))
        if said := next(filter(None, (rule(other) for rule in RULES)), None):
            return f"+{case.training.life} goes on in {layout.name}, which cannot run: {said}"
    return None


def stages_count_steps(case: Case) -> str | None:
    """A distributed optimizer over torch's AdamW that has no parameter on a rank cannot say how many steps were taken.

    Without Transformer Engine and apex it asserts that there is one number. Experts have an optimizer of their own if they are
    spread otherwise than the rest (validation/run/known.yaml says in which releases; without its bug it is so in all of them).
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/optimizer/distrib_optimizer.py (`state_dict`)
    """
    training = case.training
    of_torch = training.optimizer == "distributed" and (case.on_cpu or case.precision == "fp64")
    if not of_torch or not life.keeps(training.life) or not case.model.expert_blocks:
        return None
    for layout in (case.layout, *life.layouts(training.life)):
        spread = layout.ep > 1 or layout.expert_tp != layout.tp
        if spread and (stages := pipeline_layout.without_experts(replace(case, layout=layout))):
            return (
                f"+{training.life} keeps the steps of each optimizer, and in {layout.name} pipeline stage {stages[0] + 1} has "
                "no experts: without Transformer Engine, Megatron-Core's distributed optimizer asserts a number there; "
                "leave +distributed out, or give each stage a layer of experts"
            )
    return None


def lives_gather_at_once(case: Case) -> str | None:
    """What a step has made of parameters must be there when a checkpoint is written."""
    if not case.training.life or not case.training.effective("ddp").get("overlap_param_gather"):
        return None
    return "a life has no overlap_param_gather: parameters are whole only behind the next forward pass; leave one of them out"


def known_choice(case: Case) -> str | None:
    """The ways to choose experts that both sides have; DeepSeek-V2's has no MTP layer and no bias that a setting moves."""
    model = case.model
    methods = (SIGMOID, GREEDY, GROUP_LIMITED)
    if model.topk_method not in methods:
        return f"topk_method {model.topk_method!r} is unknown; known are {join(methods)}"
    if not model.sigmoid and model.mtp_layers:
        return f"topk_method {model.topk_method} is of DeepSeek-V2, which has no MTP layers; leave +mtp out"
    given = [name for name, _ in case.training.settings if name.startswith(ROUTERS)]
    if not model.sigmoid and given:
        return f"{given[0]} is of DeepSeek-V3's routers, and this model has DeepSeek-V2's; leave it out"
    return None


ROUTERS = ("model.moe_router_score_function", "model.moe_router_pre_softmax", "model.moe_router_enable_expert_bias")
"""Settings of how experts are chosen, which a model with DeepSeek-V2's routers has otherwise."""
RULES: tuple[Rule, ...] = (
    known_words,
    positive_numbers,
    *numbers.RULES,
    *sparse.RULES,
    *vocabulary.RULES,
    *training_rules.RULES,
    *setting_rules.RULES,
    *joined_latents.RULES,
    *schedule_rules.RULES,
    *optimizers.RULES,
    *loss_scale.RULES,
    *pipeline_layout.RULES,
    transformer_engine_runs,
    transformer_engine_splits_sequences,
    transformer_engine_exchanges_keys,
    degrees.local_stock_has_no_cp,
    degrees.tp_divides,
    degrees.etp_divides,
    degrees.moe_has_sequence_parallelism,
    degrees.cp_divides_rotary_table,
    degrees.sequence_divides,
    degrees.vpp_needs_pp,
    degrees.pp_divides,
    degrees.ep_has_experts,
    degrees.ep_divides,
    known_choice,
    groups_divide,
    enough_experts_in_chosen_groups,
    experts_are_shared,
    scores_are_normalised,
    experts_have_whole_rows,
    group_scores_agree,
    degrees.experts_fill_ranks,
    batch_divides,
    vpp_fills_micro_batches,
    *mtp.RULES,
    *data.RULES,
    *fp8.RULES,
    *inference.RULES,
    lives_gather_at_once,
    resumes_where_it_can,
    stages_count_steps,
)


# The machine


def _too_few_gpus(case: Case, gpus: int | None, share: int | None) -> str | None:
    """Nccl needs a GPU for each rank, staged one for each `share` of them."""
    ranks, name, found = case.layout.ranks, case.layout.name, gpus or 0
    each = 1 if case.transport == "nccl" else share or ranks
    needed = -(-ranks // each)
    if case.on_cpu or found >= needed:
        return None
    own = " --implementation local" if case.uses_te else ""
    here = f"{found} {'was' if found == 1 else 'were'} found" if found else "no GPU was found"
    session = "" if tree.INSTALLED else f" (`nox -s cpu_{name}`)"
    sharing = f"`--share-gpu {-(-ranks // found)}` lets ranks share what is here, and " if found else ""
    return (
        f"layout {name} on {case.transport} needs {many(needed, 'GPU')} and {here}; {sharing}the same layout "
        f"runs on the CPU with `--transport gloo{own}`{session}"
    )
