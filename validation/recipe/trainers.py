"""Training programs that set arguments of Megatron-LM by themselves: what they set, and where their source says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from validation.case.annotation import Value
from validation.recipe.parser import Option
from validation.recipe.words import Command, Word

_OF_HUGGINGFACE = {"--qk-nope-head-dim": "--qk-head-dim", "--qk-rope-head-dim": "--qk-pos-emb-head-dim"}
"""Names of config.json that forks take for sizes of a head, as Pai-Megatron-Patch does (megatron_patch/arguments.py)."""


@dataclass(frozen=True)
class Trainer:
    """A program. `defaults` count where a flag is not given, `sets` whatever is given.

    `by_name`: its flags are the arguments' own names, with `true` and `false`, and only its own defaults count: where it has
    none, the dataclass's. `other_names` are arguments that it calls otherwise, `options` those that only it has. `idle` is what
    the names of its own flags begin with that change no number of a step. `loss_from` is its loss function; with `own_tokens` a
    context-parallel rank divides a mean by the number of its own tokens.
    """

    name: str = ""
    source: str = ""
    defaults: Mapping[str, Value] = field(default_factory=dict)
    sets: Mapping[str, Value] = field(default_factory=dict)
    other_names: Mapping[str, str] = field(default_factory=dict)
    options: tuple[Option, ...] = ()
    idle: tuple[str, ...] = ()
    by_name: bool = False
    loss_from: str = ""
    own_tokens: bool = False
    doubt: str = ""

    def is_idle(self, flag: str) -> bool:
        """Whether a flag that no parser of Megatron-LM knows says where the program runs or what its data are."""
        return flag.lstrip("-").replace("-", "_").startswith(self.idle)

    def renamed(self, word: Word) -> Word:
        """The flag as Megatron-LM calls it."""
        name, joined, value = word.text.partition("=")
        other = self.other_names.get(name, _OF_HUGGINGFACE.get(name))
        return Word(other + joined + value, word.place) if other else word


_SLIME = Trainer(
    name="slime",
    source="slime/backends/megatron_utils/arguments.py of slime",
    defaults={"seq_length": 4096, "bf16": True},
    sets={"use_distributed_optimizer": True, "variable_seq_lengths": True},
    idle=(
        "actor_num_",
        "apply_chat_template",
        "colocate",
        "critic_num_",
        "eval_",
        "hf_checkpoint",
        "input_key",
        "label_key",
        "num_gpus_per_node",
        "num_rollout",
        "offload",
        "prompt_data",
        "ref_load",
        "rollout_",
        "sglang_",
        "update_weight",
    ),
    loss_from="slime's own, over the answers of a rollout",
)
_SWIFT_DEFAULTS: Mapping[str, Value] = {
    "accumulate_allreduce_grads_in_fp32": False,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_eps": 1e-8,
    "align_param_gather": True,
    "apply_rope_fusion": False,
    "attention_backend": "flash",
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bf16": True,
    "bias_dropout_fusion": True,
    "bias_swiglu_fusion": True,
    "clip_grad": 1.0,
    "context_parallel_size": 1,
    "cross_entropy_fusion_impl": "native",
    "cross_entropy_loss_fusion": True,
    "expert_model_parallel_size": 1,
    "expert_tensor_parallel_size": 1,
    "fp8_amax_compute_algo": "max",
    "fp8_amax_history_len": 1024,
    "fp8_recipe": "delayed",
    "global_batch_size": 16,
    "gradient_accumulation_fusion": True,
    "hidden_dropout": 0.0,
    "lr": 1e-5,
    "lr_decay_style": "cosine",
    "lr_warmup_init": 0.0,
    "masked_softmax_fusion": True,
    "micro_batch_size": 1,
    "min_lr": 0.0,
    "moe_aux_loss_coeff": 0.0,
    "moe_grouped_gemm": True,
    "moe_router_bias_update_rate": 1e-3,
    "moe_router_dtype": "fp32",
    "moe_router_load_balancing_type": "seq_aux_loss",
    "moe_token_dispatcher_type": "alltoall",
    "mtp_loss_scaling_factor": 0.1,
    "optimizer": "adam",
    "overlap_p2p_comm": True,
    "perform_initialization": False,
    "pipeline_model_parallel_size": 1,
    "recompute_granularity": "selective",
    "recompute_modules": ("core_attn",),
    "tensor_model_parallel_size": 1,
    "use_distributed_optimizer": True,
    "weight_decay": 0.1,
}
"""Those of megatron_args.py, and of what makes the model: mcore_bridge/config of mcore-bridge 1.5.0.

There models of DeepSeek and Kimi have seq_aux_loss.
"""
_SWIFT_OPTIONS = (
    Option(("--loss_scale", "--loss-scale"), "loss_scale_of_tokens"),
    Option(("--tuner_type", "--tuner-type", "--train_type", "--train-type"), "tuner_type"),
    Option(("--task_type", "--task-type"), "task_type"),
    Option(("--packing",), "packing", action="true", nargs=0, default=False, const=True),
)
"""Arguments of swift/arguments/base_args and of sft_args.py in ms-swift. Its loss_scale is none of fp16: it weighs tokens."""
_SWIFT = Trainer(
    name="ms-swift",
    source="swift/megatron/arguments/megatron_args.py of ms-swift",
    defaults={**_SWIFT_DEFAULTS, "calculate_per_token_loss": True},
    other_names={"--max_length": "--seq_length", "--max-length": "--seq_length"},
    idle=(
        "add_version",
        "cached_dataset",
        "dataloader_",
        "dataset",
        "load_from_cache_file",
        "logging_",
        "model",
        "num_train_epochs",
        "output_dir",
        "save_",
        "split_dataset_ratio",
        "system",
        "template",
        "use_hf",
        "val_dataset",
    ),
    options=_SWIFT_OPTIONS,
    sets={"variable_seq_lengths": True},
    by_name=True,
    loss_from="ms-swift's own",
    own_tokens=True,
    doubt="ms-swift takes the model's numbers and precision from its --model, which is not read; bf16 is taken",
)
_SWIFT_RLHF = Trainer(
    name="ms-swift",
    source=_SWIFT.source,
    defaults={**_SWIFT_DEFAULTS, "calculate_per_token_loss": False},
    other_names=_SWIFT.other_names,
    idle=_SWIFT.idle,
    options=_SWIFT_OPTIONS,
    sets=_SWIFT.sets,
    by_name=True,
    loss_from="ms-swift's own, for learning from preferences",
    doubt=_SWIFT.doubt,
)
_MINDSPEED = Trainer(
    name="MindSpeed-LLM",
    source="mindspeed_llm/features_manager of MindSpeed-LLM",
    other_names={
        "--index-head-dim": "--dsa-indexer-head-dim",
        "--index-n-heads": "--dsa-indexer-n-heads",
        "--index-topk": "--dsa-indexer-topk",
        "--indexer-loss-coeff": "--dsa-indexer-loss-coeff",
        "--rope-scaling-factor": "--rotary-scaling-factor",
        "--rope-scaling-mscale": "--mscale",
        "--rope-scaling-mscale-all-dim": "--mscale-all-dim",
        "--rope-scaling-original-max-position-embeddings": "--original-max-position-embeddings",
        "--rope-scaling-type": "--rope-type",
    },
    options=(
        Option(("--first-k-dense-replace",), "first_k_dense_replace", kind="int"),
        Option(("--n-shared-experts",), "n_shared_experts", kind="int"),
        Option(("--noop-layers",), "noop_layers"),
        Option(("--num-layer-list",), "num_layer_list"),
        Option(("--enable-dsa-indexer",), "enable_dsa_indexer", action="true", nargs=0, default=False, const=True),
    ),
    loss_from="MindSpeed-LLM's own",
    doubt="MindSpeed-LLM replaces parts of Megatron-Core, and Plumbline runs Megatron-Core's own",
)

_OF_MINDSPEED = ("mindspeed_llm.", "--noop-layers", "--num-layer-list", "--enable-dsa-indexer")
"""Words that only its scripts have."""


def of(command: Command) -> Trainer:
    """The program of a command line; Megatron-LM's own, or one that only adds flags, is one that sets nothing."""
    name = command.program.rsplit("/", 1)[-1]
    if name in ("megatron", "swift"):
        return _SWIFT_RLHF if command.words and command.words[0].text == "rlhf" else _SWIFT
    if any(word.text.startswith(("--actor-num-", "--rollout-")) for word in command.words):
        return _SLIME
    if any(word.text.startswith(_OF_MINDSPEED) for word in command.words):
        return _MINDSPEED
    if name in ("", "pretrain_gpt.py"):
        return Trainer(loss_from="pretrain_gpt.py of Megatron-LM", own_tokens=True)
    return Trainer(loss_from=f"{name}, whose loss function is not read")


def words_of(trainer: Trainer, command: Command) -> Sequence[Word]:
    """The words that are arguments, by Megatron-LM's names."""
    words = command.words
    if trainer.by_name and words and not words[0].is_flag:
        words = words[1:]
    return [trainer.renamed(word) for word in words]
