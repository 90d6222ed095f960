"""What Megatron-LM makes of its arguments: the fields of its four configurations.

The order and the rules are those of `validate_args` in megatron/training/arguments.py, of
`core_transformer_config_from_args` (there, and from 0.18 in argument_utils.py), and of get_model, get_megatron_ddp_config,
get_megatron_optimizer_config and get_optimizer_param_scheduler in megatron/training/training.py. Only consequences that
reach a field stand here; what upstream refuses is upstream's to refuse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from validation.case.annotation import Value
from validation.recipe import forks
from validation.recipe.parser import SECTIONS, Parser
from validation.recipe.recipe import Origin, Setting, Source
from validation.recipe.values import Arguments

_TRANSLATED = "core_transformer_config_from_args of Megatron-LM"
_MOST_LETTERS = 100_000
"""Of a pipeline layout; no model has as many layers."""
_DATA_TYPES: Mapping[str, str | None] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "uint8",
    "auto": None,
}
_OF_DATA_TYPES = (
    "main_grads_dtype",
    "main_params_dtype",
    "exp_avg_dtype",
    "exp_avg_sq_dtype",
    "megatron_fsdp_main_params_dtype",
    "megatron_fsdp_main_grads_dtype",
    "megatron_fsdp_grad_comm_dtype",
)
"""Arguments that name a data type in Megatron-LM's own words."""


def validate(arguments: Arguments, world: int | None) -> None:
    """Change the arguments as upstream does before any configuration is made; `world` is the number of ranks, if known.

    What the training program sets by itself stands in the end.
    """
    if arguments["fp16"] and arguments.origin("bf16").source is Source.DEFAULT:
        arguments.keep("bf16", False)
    for step in (_older, _layers, forks.apply, _stages, _precision, _model, _experts, _rest):
        step(arguments)
    ranks = [max(arguments.number(f"{name}_parallel_size"), 1) for name in ("tensor_model", "pipeline_model", "context")]
    if world is not None and arguments["global_batch_size"] is None:
        data = max(world // (ranks[0] * ranks[1] * ranks[2]), 1)
        arguments.follows("global_batch_size", arguments.number("micro_batch_size") * data, "micro_batch_size")
    for dest, value in arguments.trainer.sets.items():
        arguments.always(dest, value)


def _older(arguments: Arguments) -> None:
    """Spellings of earlier releases."""
    if arguments["recompute_activations"]:
        arguments.follows("recompute_granularity", "selective", "recompute_activations")
    for old, new in (("enable_cuda_graph", "local"), ("external_cuda_graph", "transformer_engine")):
        if arguments[old]:
            arguments.follows("cuda_graph_impl", new, old)
            arguments.keep(old, False)  # validate_args deletes it, and a configuration with both is refused
    if (parts := arguments["cuda_graph_scope_deprecated"]) is not None:  # as --cuda-graph-scope is called since 0.18
        arguments.follows("cuda_graph_modules", parts, "cuda_graph_scope_deprecated")
    if arguments["use_rotary_position_embeddings"]:
        arguments.follows("position_embedding_type", "rope", "use_rotary_position_embeddings")


def _layers(arguments: Arguments) -> None:
    """Sizes that are not given."""
    hidden, heads = arguments.number("hidden_size"), arguments.number("num_attention_heads")
    if arguments["num_layers"] is None and arguments["encoder_num_layers"] is not None:
        arguments.follows("num_layers", arguments["encoder_num_layers"], "encoder_num_layers")
    if arguments["seq_length"] is None and arguments["encoder_seq_length"] is not None:
        arguments.follows("seq_length", arguments["encoder_seq_length"], "encoder_seq_length")
    if arguments["ffn_hidden_size"] is None and hidden:
        wide = hidden * 8 // 3 // 64 * 64 if arguments["swiglu"] else 4 * hidden
        arguments.follows("ffn_hidden_size", wide, "hidden_size swiglu")
    if arguments["kv_channels"] is None and heads:
        arguments.follows("kv_channels", hidden // heads, "num_attention_heads hidden_size")


def _stages(arguments: Arguments) -> None:
    """Virtual pipeline stages; without them neither messages nor gathering overlap the schedule."""
    stages, because = _virtual_stages(arguments)
    forks.without_noop(arguments, stages)
    arguments.follows("virtual_pipeline_model_parallel_size", stages if stages > 1 else None, because)
    if stages <= 1:
        arguments.follows("overlap_p2p_comm", False, "pipeline_model_parallel_size")
        arguments.follows("align_param_gather", False, "pipeline_model_parallel_size")


def _virtual_stages(arguments: Arguments) -> tuple[int, str]:
    ranks = max(arguments.number("pipeline_model_parallel_size"), 1)
    layout = arguments["pipeline_model_parallel_layout"]
    if isinstance(layout, str):
        return stages_of(layout) // ranks, "pipeline_model_parallel_layout"
    if count := arguments.number("num_virtual_stages_per_pipeline_rank"):
        return count, "num_virtual_stages_per_pipeline_rank"
    if each := arguments.number("num_layers_per_virtual_pipeline_stage"):
        layers = arguments.number("num_layers")
        layers += bool(arguments["account_for_embedding_in_pipeline_split"])
        layers += bool(arguments["account_for_loss_in_pipeline_split"])
        return layers // ranks // each, "num_layers_per_virtual_pipeline_stage"
    return 0, "num_virtual_stages_per_pipeline_rank"


def stages_of(layout: str) -> int:
    """How many stages a text such as `Et*2|(tt|)*5t|tmL` lists: PipelineParallelLayerLayout.get_num_stages_from_str."""
    return len(expanded(layout).split("|"))


def expanded(layout: str) -> str:
    """The text without brackets, products and commas: a letter a layer and a bar between stages."""
    text = layout.replace(",", "")
    for product in (r"\(([^)]+)\)\*(\d+)", r"(.)\*(\d+)"):
        text = re.sub(product, _repeated, text)[:_MOST_LETTERS]
    return text


def _repeated(found: re.Match[str]) -> str:
    times = int(found[2][:6])
    return found[1] * min(times, _MOST_LETTERS // len(found[1]))


def _precision(arguments: Arguments) -> None:
    """bf16 sums gradients in fp32 unless told otherwise; dynamic loss scaling looks for NaN by itself."""
    kind = "bf16" if arguments["bf16"] else "fp16" if arguments["fp16"] else "fp32"
    arguments.follows("params_dtype", _DATA_TYPES[kind], "bf16 fp16")
    for name in _OF_DATA_TYPES:
        value = arguments[name]
        if isinstance(value, str) and value in _DATA_TYPES:
            arguments.keep(name, _DATA_TYPES[value])
    if arguments["fp16"] and not arguments["loss_scale"]:
        arguments.follows("check_for_nan_in_loss_and_grad", False, "fp16")
    if arguments["bf16"] and arguments["grad_reduce_in_bf16"]:
        arguments.follows("accumulate_allreduce_grads_in_fp32", False, "grad_reduce_in_bf16")
    elif arguments["bf16"] and arguments["main_grads_dtype"] == "float32":
        arguments.follows("accumulate_allreduce_grads_in_fp32", True, "accumulate_allreduce_grads_in_fp32 bf16")


def _model(arguments: Arguments) -> None:
    """Sequence parallelism needs tensor ranks; biases and rotary positions take their fusions with them."""
    if arguments.number("tensor_model_parallel_size") <= 1:
        arguments.follows("sequence_parallel", False, "sequence_parallel")
    if arguments["add_bias_linear"]:
        arguments.follows("add_qkv_bias", True, "add_bias_linear add_qkv_bias")
    else:
        arguments.follows("bias_gelu_fusion", False, "add_bias_linear")
    if arguments["position_embedding_type"] != "rope":
        arguments.follows("apply_rope_fusion", False, "position_embedding_type")
    if arguments["apply_query_key_layer_scaling"]:
        arguments.follows("attention_softmax_in_fp32", True, "apply_query_key_layer_scaling")


def _experts(arguments: Arguments) -> None:
    """Experts follow the tensor ranks unless told otherwise, and the width of the dense layers."""
    if arguments["expert_tensor_parallel_size"] is None:
        because = "tensor_model_parallel_size"
        arguments.follows("expert_tensor_parallel_size", arguments["tensor_model_parallel_size"], because)
    for prefix, size in (("", "tensor_model_parallel_size"), ("expert_", "expert_tensor_parallel_size")):
        shards = f"{prefix}tensor_parallel_num_weight_shards"
        if shards in arguments and arguments[shards] is None:
            arguments.follows(shards, arguments.number(size), size)
    if arguments["num_experts"] == 0:
        arguments.keep("num_experts", None)
    if arguments["num_experts"] is not None and arguments["moe_ffn_hidden_size"] is None:
        arguments.follows("moe_ffn_hidden_size", arguments["ffn_hidden_size"], "ffn_hidden_size hidden_size")
    if shared := arguments.number("n_shared_experts"):
        width = shared * arguments.number("moe_ffn_hidden_size")
        arguments.follows("moe_shared_expert_intermediate_size", width, "n_shared_experts", arguments.trainer.source)
    for name in ("moe_router_load_balancing_type", "moe_aux_loss_coeff", "cp_comm_type"):
        value = arguments[name]
        if isinstance(value, tuple) and len(value) == 1:
            arguments.keep(name, value[0])


def _rest(arguments: Arguments) -> None:
    if arguments["weight_decay_incr_style"] == "constant":
        for name in ("start_weight_decay", "end_weight_decay"):
            arguments.follows(name, arguments["weight_decay"], "weight_decay")
    if arguments["no_weight_decay_cond_type"] == "apply_wd_to_qk_layernorm":
        arguments.follows("apply_wd_to_qk_layernorm", True, "no_weight_decay_cond_type")
    if arguments.number("cpu_offloading_num_layers") > 0:
        arguments.follows("cpu_offloading", True, "cpu_offloading_num_layers")
    if arguments["cuda_graph_impl"] not in (None, "none") and arguments["transformer_impl"] == "transformer_engine":
        arguments.follows("te_rng_tracker", True, "cuda_graph_impl")
    if arguments["use_megatron_fsdp"]:
        arguments.follows("use_custom_fsdp", True, "use_megatron_fsdp")
    arguments.follows("variable_seq_lengths", False, "variable_seq_lengths")


Rule = tuple[str, str, str, Callable[[Arguments], Value]]
"""Section, field, the arguments that decide it, and its value."""


def _not(dest: str) -> Callable[[Arguments], Value]:
    return lambda arguments: not arguments[dest]


def _same(dest: str) -> Callable[[Arguments], Value]:
    return lambda arguments: arguments[dest]


def _groups(arguments: Arguments) -> Value:
    return arguments["num_query_groups"] if arguments["group_query_attention"] else None


def _activation(arguments: Arguments) -> Value:
    words = ("swiglu", "silu"), ("squared_relu", "squared_relu"), ("quick_geglu", "quick_gelu")
    return next((value for dest, value in words if arguments[dest]), "gelu")


_RULES: tuple[Rule, ...] = (
    ("model", "persist_layer_norm", "no_persist_layer_norm", _not("no_persist_layer_norm")),
    ("model", "pipeline_dtype", "params_dtype", _same("params_dtype")),
    ("model", "batch_p2p_comm", "overlap_p2p_comm", _not("overlap_p2p_comm")),
    ("model", "inference_sampling_seed", "seed", _same("seed")),
    ("model", "num_moe_experts", "num_experts", _same("num_experts")),
    (
        "model",
        "num_layers_in_first_pipeline_stage",
        "decoder_first_pipeline_num_layers",
        _same("decoder_first_pipeline_num_layers"),
    ),
    (
        "model",
        "num_layers_in_last_pipeline_stage",
        "decoder_last_pipeline_num_layers",
        _same("decoder_last_pipeline_num_layers"),
    ),
    ("model", "fp8_param", "fp8_param_gather", _same("fp8_param_gather")),
    ("model", "activation_func", "swiglu squared_relu quick_geglu", _activation),
    ("model", "gated_linear_unit", "swiglu quick_geglu", lambda found: bool(found["swiglu"] or found["quick_geglu"])),
    (
        "model",
        "bias_activation_fusion",
        "bias_swiglu_fusion swiglu",
        lambda found: found["bias_swiglu_fusion" if found["swiglu"] else "bias_gelu_fusion"],
    ),
    ("model", "num_query_groups", "group_query_attention num_query_groups", _groups),
    ("model", "fp4_param", "fp4_param_gather", _same("fp4_param_gather")),
    ("ddp", "grad_reduce_in_fp32", "accumulate_allreduce_grads_in_fp32", _same("accumulate_allreduce_grads_in_fp32")),
    ("ddp", "check_for_nan_in_grad", "check_for_nan_in_loss_and_grad", _same("check_for_nan_in_loss_and_grad")),
    ("ddp", "check_for_large_grads", "check_for_large_grads", _same("check_for_large_grads")),
    ("ddp", "bucket_size", "ddp_bucket_size", _same("ddp_bucket_size")),
    ("ddp", "num_buckets", "ddp_num_buckets", _same("ddp_num_buckets")),
    (
        "ddp",
        "pad_buckets_for_high_nccl_busbw",
        "ddp_pad_buckets_for_high_nccl_busbw",
        _same("ddp_pad_buckets_for_high_nccl_busbw"),
    ),
    (
        "ddp",
        "reduce_scatter_with_fp32_accumulation",
        "ddp_reduce_scatter_with_fp32_accumulation",
        _same("ddp_reduce_scatter_with_fp32_accumulation"),
    ),
    (
        "ddp",
        "param_name_patterns_for_fp32_local_accumulation",
        "ddp_param_name_patterns_for_fp32_local_accumulation",
        _same("ddp_param_name_patterns_for_fp32_local_accumulation"),
    ),
    ("ddp", "average_in_collective", "ddp_average_in_collective", _same("ddp_average_in_collective")),
    ("scheduler", "init_lr", "lr_warmup_init", _same("lr_warmup_init")),
    ("scheduler", "max_lr", "lr", _same("lr")),
    ("scheduler", "start_wd", "start_weight_decay weight_decay", _same("start_weight_decay")),
    ("scheduler", "end_wd", "end_weight_decay weight_decay", _same("end_weight_decay")),
    ("scheduler", "wd_incr_style", "weight_decay_incr_style", _same("weight_decay_incr_style")),
)
_SCHEDULE = {
    "lr_warmup_steps": "lr_warmup_fraction lr_warmup_iters lr_warmup_samples",
    "lr_decay_steps": "lr_decay_iters lr_decay_samples train_iters train_samples",
    "wd_incr_steps": "train_iters train_samples",
    "wsd_decay_steps": "lr_wsd_decay_iters lr_wsd_decay_samples",
}
"""Counted in samples, as upstream's scheduler counts."""
_LISTS = (*(rule[2] for rule in _RULES), *_SCHEDULE.values(), "no_weight_decay_cond_type")
RENAMED = frozenset(dest for dests in _LISTS for dest in dests.split())
"""Arguments that reach a field of another name."""
_OWN_NAMES = frozenset({f"{section}.{field}" for section, field, _, _ in _RULES} | {f"scheduler.{name}" for name in _SCHEDULE})


def settings(parser: Parser, arguments: Arguments) -> Iterator[Setting]:
    """Every field that an argument decides, with the parser's defaults among them."""
    for section in SECTIONS:
        for name in parser.fields[section]:
            if f"{section}.{name}" not in _OWN_NAMES and name in arguments and not _left_open(arguments, name):
                yield Setting(f"{section}.{name}", arguments[name], arguments.origin(name))
    if "deallocate_pipeline_outputs" in parser.fields["model"]:
        always = Origin(Source.DEFAULT, "always on", _TRANSLATED)
        yield Setting("model.deallocate_pipeline_outputs", True, always)
    schedule = _schedule(arguments)
    for section, name, dests, value in _RULES:
        known = [dest for dest in dests.split() if dest in arguments]
        if name in parser.fields[section] and known:
            yield Setting(f"{section}.{name}", value(arguments), _origin_of(arguments, known))
    for name, dests in _SCHEDULE.items():
        if name in schedule and name in parser.fields["scheduler"]:
            known = [dest for dest in dests.split() if dest in arguments]
            yield Setting(f"scheduler.{name}", schedule[name], _origin_of(arguments, known))


def _left_open(arguments: Arguments, name: str) -> bool:
    """Arguments that upstream leaves out of the configuration if they are None."""
    return name == "rope_type" and arguments[name] is None


def _origin_of(arguments: Arguments, dests: Sequence[str]) -> Origin:
    given = arguments.given(*dests)
    return arguments.origin(given or dests[0])


def _schedule(arguments: Arguments) -> Mapping[str, Value]:
    """The lengths of the schedule in samples: get_optimizer_param_scheduler. Empty if the run's length is not known.

    Upstream lets a share of the length be a part of a sample. The scheduler's own type is a whole number.
    """
    iterations, samples = arguments.number("train_iters"), arguments.number("train_samples")
    batch = arguments.number("global_batch_size") if iterations else 1
    if not (iterations or samples) or not batch:
        return {}
    unit = "iters" if iterations else "samples"
    length = (iterations or samples) * batch
    decay = arguments.number(f"lr_decay_{unit}") * batch or length
    fraction = arguments["lr_warmup_fraction"]
    warm = arguments.number(f"lr_warmup_{unit}") * batch
    if isinstance(fraction, (int, float)):
        warm = round(fraction * decay) if math.isfinite(fraction * decay) else decay  # and warm-up has no end
    found: dict[str, Value] = {"lr_warmup_steps": warm, "lr_decay_steps": decay, "wd_incr_steps": length}
    if arguments[f"lr_wsd_decay_{unit}"] is not None:
        found["wsd_decay_steps"] = arguments.number(f"lr_wsd_decay_{unit}") * batch
    return found
