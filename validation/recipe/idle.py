"""Which arguments of Megatron-LM change no number of a step: where data lie, what is logged, saved and measured."""

from __future__ import annotations

from validation.recipe.parser import Option

GROUPS = frozenset(
    {
        "In-process restart",
        "autoresume",
        "checkpointing",
        "ft_package",
        "inference",
        "logging",
        "msc",
        "one logger",
        "opentelemetry",
        "profiling",
        "straggler",
        "tokenizer",
        "validation",
        "workload inspector",
    }
)
"""Groups of the parser whose arguments are idle, CHANGING aside."""
CHANGING = frozenset(
    {
        "freeze_all_layers",
        "load_main_params_from_ckpt",
        "padded_vocab_size",
        "skip_train",
        "use_checkpoint_args",
        "use_mp_args_from_checkpoint_args",
        "vocab_size",
    }
)
"""Arguments of those groups that change the model or the step."""
ARGUMENTS = frozenset(
    {
        "bias_gelu_fusion",
        "check_for_spiky_loss",
        "check_weight_hash_across_dp_replicas_interval",
        "create_attention_mask_in_dataloader",
        "data_args_path",
        "data_cache_path",
        "data_parallel_random_init",
        "data_path",
        "dataloader_defer_npy_index_mmap",
        "dataloader_fast_cache_load",
        "dataloader_type",
        "deprecated_use_mcore_models",
        "distributed_backend",
        "distributed_timeout_minutes",
        "distributed_timeout_seconds_after_init",
        "dump_param_to_param_group_map",
        "empty_unused_memory_level",
        "enable_gloo_process_groups",
        "exit_duration_in_mins",
        "exit_interval",
        "exit_signal",
        "exit_signal_handler",
        "exit_signal_handler_for_dataloader",
        "exit_signal_handler_for_training",
        "flight_recorder_dump_on_timeout",
        "flight_recorder_dump_path",
        "flight_recorder_extra_dump_on_exec",
        "flight_recorder_include_only_active",
        "flight_recorder_include_stack_trace",
        "flight_recorder_trace_buffer_size",
        "gpu_sniff_test_interval",
        "high_priority_stream_groups",
        "init_method_xavier_uniform",
        "iterations_to_skip",
        "lazy_mpu_init",
        "local_rank",
        "manual_gc",
        "manual_gc_eval",
        "manual_gc_interval",
        "mid_level_dataset_surplus",
        "mmap_bin_files",
        "mock_data",
        "nccl_communicator_config_path",
        "num_dataset_builder_threads",
        "num_workers",
        "object_storage_cache_path",
        "per_dataset_sequences_path",
        "per_split_data_args_path",
        "rerun_mode",
        "result_rejected_tracker_filename",
        "scatter_gather_tensors_in_pipeline",
        "seed",
        "sharp_enabled_group",
        "split",
        "te_rng_tracker",
        "test_data_path",
        "train_data_path",
        "train_sync_interval",
        "use_flash_attn",
        "use_gloo_process_groups",
        "use_sharp",
        "valid_data_path",
    }
)
"""Idle arguments of the other groups.

Weights come from the reference, so the seed and the ways to draw initial values are among them. Without dropout nothing draws
from te_rng_tracker. No release since 0.16 reads use_flash_attn, and only a model without SwiGLU reads bias_gelu_fusion.
"""


def is_idle(option: Option) -> bool:
    """Whether the argument changes no number of a step."""
    return option.dest in ARGUMENTS or (option.group in GROUPS and option.dest not in CHANGING)
