"""Arguments that Megatron-LM refuses together, so that no training has them: validate_args in megatron/training/arguments.py.

A stand-in would not show it, because it is made of what follows from the arguments.
"""

from __future__ import annotations

from collections.abc import Iterator

from validation.case.plural import many
from validation.case.suggestions import join
from validation.recipe import forks
from validation.recipe.recipe import Recipe
from validation.recipe.values import Arguments

_STAGES = (
    "num_layers_per_virtual_pipeline_stage",
    "num_virtual_stages_per_pipeline_rank",
    "pipeline_model_parallel_layout",
)
_ENDS = ("decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers")
_UNITS = {"iters": "samples", "samples": "iters"}


def of(given: Arguments) -> Iterator[str]:
    """A sentence on each, with what would work. `given` are the arguments before anything follows from them."""
    yield from _model(given)
    yield from _lengths(given)
    yield from _weight_decay(given)
    yield from _gathering(given)
    yield from _recomputing(given)
    yield from _parallel(given)
    yield from forks.wrong(given)


def of_batch(recipe: Recipe, micro: str, overall: str) -> str:
    """The same of a step's sequences that the ranks cannot share, if how many they are is said; '' if they can.

    `micro` and `overall` are the names of both numbers.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/num_microbatches_calculator.py
    """
    batch, data_parallel = recipe.batch, recipe.layout.data_parallel
    if not (recipe.world and batch.micro and batch.overall) or not batch.overall % (at_once := batch.micro * data_parallel):
        return ""
    ranks = many(data_parallel, "data-parallel rank")
    return f"{overall} {batch.overall} is no multiple of {at_once}, which is {micro} {batch.micro} times {ranks}; give one"


def _flag(dest: str) -> str:
    return f"--{dest.replace('_', '-')}"


def _model(given: Arguments) -> Iterator[str]:
    if given["fp16"] and given["bf16"] and given.given("bf16"):
        yield "--fp16 and --bf16 are both given; keep one"
    if given["group_query_attention"] and given["multi_latent_attention"]:
        yield "--group-query-attention and --multi-latent-attention exclude each other; leave the first out"
    rotary = given["position_embedding_type"] == "rope" or given["use_rotary_position_embeddings"]
    if given["multi_latent_attention"] and given["rope_type"] == "rope" and rotary and given["apply_rope_fusion"]:
        yield "--rope-type rope of multi-latent attention has no fused rotary embedding; give --no-rope-fusion, too"
    if given["swiglu"] and given["squared_relu"]:
        yield "--swiglu and --squared-relu are both given; DeepSeek-V3 has the first"
    if given["fp16_lm_cross_entropy"] and not given["fp16"]:
        yield "--fp16-lm-cross-entropy goes with --fp16; leave it out"
    if len(several := [_flag(dest) for dest in _STAGES if given[dest] is not None]) > 1:
        yield f"{join(several)} are all ways to say virtual stages; keep one"
    ends = [_flag(dest) for dest in _ENDS if given[dest] is not None]
    if ends and given[_STAGES[0]] is not None:
        yield f"{_flag(_STAGES[0])} goes without {join(ends)}; give {_flag(_STAGES[1])} instead"
    length, most = given.number("seq_length"), given.number("max_position_embeddings")
    if most and length > most:
        yield f"--seq-length {length} is more than --max-position-embeddings {most}; give as many positions"


def _lengths(given: Arguments) -> Iterator[str]:
    """A run is as long as iterations or samples say, and so is each part of its schedule."""
    if given["train_iters"] and given["train_samples"]:
        yield "--train-iters and --train-samples both say how long the run is; keep one"
        return
    for unit, other in _UNITS.items():
        wrong = [dest for dest in (f"lr_decay_{other}", f"lr_warmup_{other}") if given[f"train_{unit}"] and given[dest]]
        for dest in wrong:
            yield f"--train-{unit} counts {_said(unit)}, and {_flag(dest)} does not; give {_flag(dest.replace(other, unit))}"
        if given[f"train_{unit}"] and given["lr_warmup_fraction"] is not None and given[f"lr_warmup_{unit}"]:
            yield f"--lr-warmup-fraction and {_flag(f'lr_warmup_{unit}')} both say how long warm-up is; keep one"


def _said(unit: str) -> str:
    return "iterations" if unit == "iters" else unit


def _weight_decay(given: Arguments) -> Iterator[str]:
    """It grows from one number to another, or stays what --weight-decay says."""
    style, ends = given["weight_decay_incr_style"], ("start_weight_decay", "end_weight_decay")
    there = [_flag(dest) for dest in ends if given[dest] is not None]
    if style == "constant" and there:
        yield f"{join(there)} goes with --weight-decay-incr-style linear or cosine, and it is constant; give one of them"
    if style not in ("constant", None) and len(there) < len(ends):
        yield f"--weight-decay-incr-style {style} needs --start-weight-decay and --end-weight-decay; give both"


def _recomputing(given: Arguments) -> Iterator[str]:
    if given["recompute_granularity"] == "selective" and given["recompute_method"] is not None:
        yield "--recompute-method is of --recompute-granularity full, and it is selective; leave one of them out"
    if given["distribute_saved_activations"]:
        whole = given["recompute_granularity"] == "full" and given["recompute_method"] is not None
        if given.number("tensor_model_parallel_size") <= 1 or not whole:
            yield (
                "--distribute-saved-activations goes with tensor parallelism, --recompute-granularity full and "
                "--recompute-method; give all of them, or leave it out"
            )


def _parallel(given: Arguments) -> Iterator[str]:
    cp, length, pp = (given.number(name) for name in ("context_parallel_size", "seq_length", "pipeline_model_parallel_size"))
    if cp > 1 and length % (2 * cp):
        yield f"--seq-length {length} is no multiple of {2 * cp}, which is twice --context-parallel-size; give one"
    if given["tp_comm_overlap"] and not given["sequence_parallel"]:
        yield "--tp-comm-overlap goes with --sequence-parallel; give both"
    if pp == 2 and given["overlap_p2p_comm"] is False and any(given.number(dest) for dest in _STAGES[:2]):
        yield "virtual stages of 2 pipeline ranks go without --no-overlap-p2p-communication; leave it out"
    if given["optimizer_cpu_offload"] and not given["use_precision_aware_optimizer"]:
        yield "--optimizer-cpu-offload goes with --use-precision-aware-optimizer; give both"


def _gathering(given: Arguments) -> Iterator[str]:
    if given["use_distributed_optimizer"] and given["optimizer"] == "sgd":
        yield "--use-distributed-optimizer shares the states of Adam alone, and --optimizer is sgd; leave the first out"
    if given["overlap_param_gather_with_optimizer_step"] and not (
        given["overlap_param_gather"] and any(given[dest] is not None for dest in _STAGES)
    ):
        yield "--overlap-param-gather-with-optimizer-step goes with --overlap-param-gather and virtual stages; give them, too"
    if not given["overlap_param_gather"]:
        return
    if not (given["use_distributed_optimizer"] or given["use_megatron_fsdp"]):
        yield "--overlap-param-gather goes with --use-distributed-optimizer; give both"
    if not given["overlap_grad_reduce"]:
        yield "--overlap-param-gather goes with --overlap-grad-reduce; give both"
