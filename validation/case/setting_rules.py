"""The rules that settings set. A rule takes the case and returns a sentence (what is wrong, what would work) or None."""

from __future__ import annotations

import math

from validation.case import graphs, optimizers, pipeline_layout
from validation.case.annotation import Value
from validation.case.case import Case
from validation.case.plural import many
from validation.case.settings import written
from validation.case.suggestions import join

CAPACITY = "model.moe_expert_capacity_factor"
_OF_GPUS = {
    "model.use_kitchen": "NVIDIA's kitchen extension",
    "model.use_kitchen_attention": "NVIDIA's kitchen extension",
    "model.use_ring_exchange_p2p": "a torch that was built with ring_exchange",
}
"""Fields that end a rank on a CPU, where there is no package for them to install."""
NUMBERS = ("model.mtp_loss_scaling_factor", "optimizer.lr", "optimizer.min_lr")
"""Fields that upstream lets say nothing, and with which a step computes."""
_COEFFICIENT = "model.moe_aux_loss_coeff"
_GROUP = "microbatch_group_size_per_vp_stage"


def settings_can_be_compared(case: Case) -> str | None:
    """Each is of a kind that may be set, with a value that the reference stands for, and has here what it needs."""
    return next(filter(None, (wrong(case, name, value) for name, value in case.training.settings)), None)


def wrong(case: Case, name: str, value: Value) -> str | None:
    """Why a setting cannot be compared in a case, None if it can."""
    from validation.case import fields

    if name == f"model.{pipeline_layout.FIELD}":
        return None  # it has a rule of its own
    entry, said = fields.entry(name), f"{name}={written(value)}"
    instead = f"; {entry.option} says it" if entry.option else ""
    if entry.kind in ("shape", "layout"):
        of = "the model's shape" if entry.kind == "shape" else "the layout"
        return f"{said} is of {of}, which a setting cannot change: {entry.why}{instead}"
    if entry.kind == "refused":
        return f"{said} cannot be compared: {entry.why}{instead}"
    if name == "optimizer.optimizer" and (emerging := optimizers.of_another_package(str(value))):
        return emerging
    if isinstance(value, float) and not math.isfinite(value):
        return f"{said} is not finite, and what a step makes of it is no number; give a finite one"
    if name in NUMBERS and value is None:
        return f"{said} says no number, and the reference computes with one; give one, or leave it out"
    if name == _COEFFICIENT and isinstance(value, tuple):
        return f"{said} is of several balancing losses, and the reference has a formula for one; a number works"
    if name == CAPACITY and value is not None:
        return _may_drop(case, value)
    if not entry.computed(value):
        return f"{said} cannot be compared: {entry.why}" + _computed(entry.only)
    if value and case.on_cpu and name in _OF_GPUS:
        return f"{said} needs {_OF_GPUS[name]}, which is for GPUs; leave it out"
    return missing(case, said, entry.need(value))


def _computed(only: tuple[Value, ...]) -> str:
    return f"; {join(map(written, only))} can" if only else "; leave it out"


def _may_drop(case: Case, value: Value) -> str | None:
    """Dropped tokens have no formula in the reference. With room for every token on one expert none is dropped."""
    model = case.model
    enough = model.n_routed_experts / model.num_experts_per_tok if model.moe_layers else 0.0
    if isinstance(value, (int, float)) and (value < 0 or value >= enough):
        return None
    return (
        f"{CAPACITY}={written(value)} may drop tokens, and the reference has no formula for that; {enough:g} and more, "
        "which is experts / top-k, drop none"
    )


def experts_are_filled_to_their_tokens(case: Case) -> str | None:
    """megatron-core fills an expert up to its capacity with tokens of the batch, and its router never takes a token twice."""
    model, given = case.model, case.training.effective("model")
    capacity = given.get("moe_expert_capacity_factor")
    if case.training.inference != "none" or not given.get("moe_pad_expert_input_to_capacity") or not model.moe_layers:
        return None
    enough = model.n_routed_experts / model.num_experts_per_tok
    if not isinstance(capacity, (int, float)) or capacity <= enough:
        return None
    return (
        f"{CAPACITY}={capacity:g} with model.moe_pad_expert_input_to_capacity=true gives an expert more places than there are "
        f"tokens, and Megatron-Core cannot fill them; {enough:g} works, which is experts / top-k"
    )


def missing(case: Case, said: str, need: str) -> str | None:
    """What a setting needs and the case does not have. Packages are seen when a rank imports them."""
    from validation.case import fields

    if need == "te" and not case.uses_te:
        return f"{said} needs Transformer Engine; --implementation te on GPUs has it, or leave it out"
    if need in ("gpu", "deepep", "extension") and case.on_cpu:
        return f"{said} needs {fields.NEEDS[need]}; --transport nccl runs on GPUs, or leave it out"
    return None


def user_buffers_are_of_one_gpu(case: Case) -> str | None:
    """Transformer Engine's user buffers are memory of a GPU that the others of its group write into."""
    if not case.training.effective("model").get("tp_comm_overlap") or not case.uses_te:
        return None
    if not case.layout.uses_sequence_parallel:
        return (
            f"{case.arrangement}: tp_comm_overlap is of sequence parallelism, and {case.layout.name} has none; take tp2, or "
            "leave it out"
        )
    if case.transport != "nccl":
        return (
            f"{case.arrangement}: tp_comm_overlap needs a GPU for each rank, and over {case.transport} ranks share one; "
            "--transport nccl has it, or leave it out"
        )
    return None


def hierarchy_has_its_groups(case: Case) -> str | None:
    """The sizes of both levels, whose product are the ranks; one of the fields alone is an error of megatron-core's."""
    model, cp = case.training.effective("model"), case.layout.cp
    kind, sizes = model.get("cp_comm_type"), model.get("hierarchical_context_parallel_sizes")
    if kind != "a2a+p2p" or cp == 1:
        return None
    whole = isinstance(sizes, tuple) and len(sizes) == 2 and all(type(size) is int and size > 0 for size in sizes)
    if whole and math.prod(sizes) == cp:  # type: ignore[arg-type]
        return None
    inner = next((size for size in range(2, cp) if cp % size == 0), 1)
    return (
        f"cp_comm_type=a2a+p2p needs two sizes whose product is cp{cp}; "
        f"hierarchical_context_parallel_sizes=[{inner},{cp // inner}] works"
    )


def sends_overlap_between_virtual_stages(case: Case) -> str | None:
    """megatron-core has no schedule that overlaps sends without virtual stages."""
    if case.layout.vpp > 1 or not case.training.effective("model").get("overlap_p2p_comm"):
        return None
    return "model.overlap_p2p_comm=true is of schedules with virtual stages; a layout with vpp2 has them, or leave it out"


def experts_exchange_what_is_overlapped(case: Case) -> str | None:
    """megatron-core asserts that there is something to overlap, and has no such schedule of stages that are not virtual."""
    layout, name = case.layout, "overlap_moe_expert_parallel_comm"
    if not case.training.effective("model").get(name):
        return None
    if layout.ep == 1:
        return f"model.{name}=true is about what experts on several ranks exchange, and {layout.name} has none; ep2 has them"
    if layout.pp > 1 and layout.vpp == 1:
        return f"model.{name}=true is of one stage or of virtual stages; {layout.name} works with vpp2, or leave it out"
    return None


def sums_in_fp32_are_of_lower_precisions(case: Case) -> str | None:
    """megatron-core asserts that what it sums in fp32 comes out in fp32."""
    name = "reduce_scatter_with_fp32_accumulation"
    if case.precision != "fp64" or not case.training.effective("ddp").get(name):
        return None
    return f"ddp.{name}=true cannot run in fp64, in which Megatron-Core asserts float32; --precision bf16 works"


def sums_are_in_bf16(case: Case) -> str | None:
    """Sums in the model's precision have a floor in bf16. In fp16 the loss scale decides what of them is left."""
    if case.training.effective("ddp").get("grad_reduce_in_fp32") is not False:
        return None
    said = "ddp.grad_reduce_in_fp32=false"
    if case.precision == "fp16":
        return f"{said} cannot be compared in fp16, where the loss scale decides which gradients vanish; --precision bf16 works"
    unable = "isolated modules (leave out --isolated)" if case.isolated else "floor with --stream (leave it out)"
    return f"{said} has no {unable}" if case.precision == "bf16" and (case.isolated or case.training.stream) else None


def balancing_counts(case: Case) -> str | None:
    """megatron-core takes a coefficient below 0 for none (`is_aux_loss_enabled`), and the formula would push the other way."""
    coefficient = case.training.effective("model").get("moe_aux_loss_coeff")
    if case.training.balancing in ("none", "z_loss") or not isinstance(coefficient, (int, float)) or coefficient >= 0:
        return None
    return f"model.moe_aux_loss_coeff={coefficient:g} balances nothing in Megatron-Core; give a number of 0 or more"


def averages_are_of_means(case: Case) -> str | None:
    """megatron-core's DistributedDataParallel asserts it."""
    name = "average_in_collective"
    if case.training.loss != "token" or not case.training.effective("ddp").get(name):
        return None
    return f"ddp.{name}=true cannot run with a loss per token, which Megatron-Core does not average; --loss mean works"


def first_chunk_is_gathered_beside_the_step(case: Case) -> str | None:
    """megatron-core splits the first of several chunks off, and has a step of the distributed optimizer gather it."""
    name, gathers = "overlap_param_gather_with_optimizer_step", case.training.effective("ddp").get("overlap_param_gather")
    if not case.training.effective("optimizer").get(name) or not case.training.steps:
        return None
    if case.layout.vpp > 1 and case.training.optimizer == "distributed" and gathers:
        return None
    return (
        f"optimizer.{name}=true is of virtual stages whose distributed optimizer gathers late; "
        "pp2vpp2+distributed+ddp.overlap_grad_reduce+ddp.overlap_param_gather has them, or leave it out"
    )


def core_attention_scales_once(case: Case) -> str | None:
    """The core attention of `local` is ours, and refuses in the ranks what it does not compute."""
    name = "apply_query_key_layer_scaling"
    if case.implementation != "local" or not case.training.effective("model").get(name):
        return None
    return f"model.{name}=true is of Megatron-Core's own core attention; --implementation local-stock or te has it"


def gradients_are_clipped(case: Case) -> str | None:
    """Without a limit megatron-core computes no norm of the gradients, which a step is compared by."""
    if not case.training.steps or case.training.adam.clip_norm > 0:
        return None
    return (
        "optimizer.clip_grad=0 turns clipping off, and Megatron-Core then computes no norm of the gradients; a large limit "
        "such as 1e9 works, or --steps 0"
    )


def mtp_layers_are_recomputed_one_by_one(case: Case) -> str | None:
    """megatron-core asserts it in the forward pass of an MTP layer (since 0.14)."""
    model = case.training.effective("model")
    several = model.get("recompute_num_layers") not in (None, 1) and model.get("recompute_method") == "uniform"
    if not (case.model.mtp_layers and model.get("recompute_granularity") == "full" and several):
        return None
    return (
        f"model.recompute_num_layers={model['recompute_num_layers']} cannot run beside an MTP layer: Megatron-Core recomputes "
        "those one by one; recompute_num_layers=1 works, or recompute_method=block"
    )


def recomputed_parts_have_layers(case: Case) -> str | None:
    """megatron-core goes on by so many layers, and with none of them for ever."""
    model = case.training.effective("model")
    number = model.get("recompute_num_layers")
    if model.get("recompute_method") != "uniform" or not isinstance(number, int) or number > 0:
        return None
    if model.get("recompute_granularity") != "full":
        return None
    return f"model.recompute_num_layers={number} never ends, for Megatron-Core recomputes so many layers at a time; 1 works"


def groups_of_micro_batches_fill_the_schedule(case: Case) -> str | None:
    """With virtual stages each group has a micro-batch for every stage at least, the last one too, and the batch a group."""
    group, pp, count = case.training.effective("model").get(_GROUP), case.layout.pp, case.micro_batches
    if case.layout.vpp == 1 or not isinstance(group, int):
        return None
    rest = count % group if group > 0 else 0
    if pp <= group <= count and not 0 < rest < pp:
        return None
    fitting = [number for number in range(pp, count + 1) if not 0 < count % number < pp]
    works = f"{join([str(number) for number in fitting])} {'work' if len(fitting) > 1 else 'works'}, or " if fitting else ""
    return (
        f"model.{_GROUP}={group} does not fit {many(count, 'micro-batch', 'micro-batches')} on each rank of pp{pp}: a "
        f"group has {pp} to {count}, and "
        f"what is left {pp} or none; {works}a larger --batch-size"
    )


RULES = (
    settings_can_be_compared,
    experts_are_filled_to_their_tokens,
    user_buffers_are_of_one_gpu,
    hierarchy_has_its_groups,
    sends_overlap_between_virtual_stages,
    experts_exchange_what_is_overlapped,
    sums_in_fp32_are_of_lower_precisions,
    sums_are_in_bf16,
    balancing_counts,
    averages_are_of_means,
    first_chunk_is_gathered_beside_the_step,
    core_attention_scales_once,
    gradients_are_clipped,
    recomputed_parts_have_layers,
    mtp_layers_are_recomputed_one_by_one,
    groups_of_micro_batches_fill_the_schedule,
    graphs.can_be_compared,
)
