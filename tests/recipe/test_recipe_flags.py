"""Flags of Megatron-LM become the settings that upstream makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from validation.case.errors import UsageError
from validation.recipe import full, read, show, told, trial, unread
from validation.recipe.recipe import Recipe, Source
from validation.recipe.standin import stand_in

ROOT = Path(__file__).parents[2]
SMALL = """
--num-layers 4 --hidden-size 128 --num-attention-heads 4 --ffn-hidden-size 256 --num-experts 8
--moe-ffn-hidden-size 64 --moe-shared-expert-intermediate-size 128 --moe-router-topk 2
--moe-layer-freq ([0]*1+[1]*3) --multi-latent-attention --swiglu --bf16
--micro-batch-size 1 --global-batch-size 16 --seq-length 64 --max-position-embeddings 64
--position-embedding-type rope --normalization RMSNorm --disable-bias-linear --qk-layernorm
"""
SPARSE = "--experimental-attention-variant dsa --dsa-indexer-topk 9 --dsa-indexer-n-heads 2 --dsa-indexer-head-dim 8"
Reads = Callable[..., Recipe]


@pytest.fixture
def recipe_of(tmp_path: Path) -> Reads:
    """Reads a text as the file that has it."""

    def read_text(text: str, release: str = "0.16.1", world: int | None = None) -> Recipe:
        file = tmp_path / "flags"
        file.write_text(text)
        return read.read(file, release, world=world)

    return read_text


def origin(recipe: Recipe, name: str) -> str:
    """Where a setting came from, as it is shown."""
    return str(next(setting for setting in recipe.settings if setting.name == name).origin)


def test_a_flag_sets_the_field_of_its_name_and_says_its_line(recipe_of: Reads) -> None:
    """The second line of the file has it."""
    recipe = recipe_of(SMALL)
    assert recipe.values["model.num_layers"] == 4
    assert origin(recipe, "model.num_layers") == "--num-layers 4 (flags:2)"


def test_flags_of_other_names_reach_their_fields(recipe_of: Reads) -> None:
    """core_transformer_config_from_args, get_model and get_optimizer_param_scheduler of Megatron-LM."""
    values = recipe_of(
        SMALL + "--disable-bias-linear --no-masked-softmax-fusion --no-persist-layer-norm --ddp-bucket-size 100 "
        "--no-check-for-nan-in-loss-and-grad --ddp-average-in-collective --train-iters 10 --lr 1e-3 --lr-warmup-iters 2 "
        "--weight-decay 0.1 --decoder-last-pipeline-num-layers 1 --fp8-param-gather --no-bias-swiglu-fusion"
    ).values
    assert values["model.num_moe_experts"] == 8
    assert (values["model.activation_func"], values["model.gated_linear_unit"]) == ("silu", True)
    assert values["model.add_bias_linear"] is False
    assert values["model.num_layers_in_last_pipeline_stage"] == 1
    assert values["model.fp8_param"] is True
    # Off, as in the dataclasses: flags that turn a default of the parser off set the dataclass's own value.
    assert values["model.masked_softmax_fusion"] is False
    assert values["model.persist_layer_norm"] is False
    assert values["model.bias_activation_fusion"] is False
    assert (values["ddp.bucket_size"], values["ddp.average_in_collective"]) == (100, True)
    assert values["ddp.check_for_nan_in_grad"] is False
    assert (values["scheduler.lr_warmup_steps"], values["scheduler.lr_decay_steps"]) == (32, 160)
    share = recipe_of(SMALL + "--train-samples 1999 --lr-warmup-fraction 0.01").values["scheduler.lr_warmup_steps"]
    assert (share, type(share)) == (20, int)
    assert (values["scheduler.max_lr"], values["optimizer.lr"]) == (1e-3, 1e-3)
    assert (values["scheduler.start_wd"], values["scheduler.end_wd"]) == (0.1, 0.1)


def test_bf16_sums_gradients_in_fp32_unless_told_otherwise(recipe_of: Reads) -> None:
    """validate_args: --bf16 alone means fp32 sums; --grad-reduce-in-bf16 does not."""
    recipe = recipe_of(SMALL)
    assert recipe.values["ddp.grad_reduce_in_fp32"] is True
    assert "--bf16" in origin(recipe, "ddp.grad_reduce_in_fp32")
    assert recipe.values["model.params_dtype"] == "bfloat16"
    assert recipe.precision == "bf16"
    other = recipe_of(SMALL + "--grad-reduce-in-bf16")
    assert other.values["ddp.grad_reduce_in_fp32"] is False


def test_the_parsers_defaults_count_where_they_differ(recipe_of: Reads) -> None:
    """A flag that is not given: rotary_scaling_factor is 1.0 in the parser and 40 in MLATransformerConfig."""
    recipe = recipe_of(SMALL)
    assert recipe.values["model.rotary_scaling_factor"] == 1.0
    assert recipe.model["rope_factor"] == 1.0
    fused = ("bias_dropout_fusion", "masked_softmax_fusion", "apply_rope_fusion", "gradient_accumulation_fusion")
    assert all(recipe.values[f"model.{name}"] is True for name in fused)
    assert recipe.values["model.deallocate_pipeline_outputs"] is True
    assert "default of Megatron-LM's parser, 0.16.1" in origin(recipe, "model.apply_rope_fusion")
    assert "model.init_method_std" not in recipe.values  # 0.02 in both


def test_sequence_parallelism_needs_tensor_ranks(recipe_of: Reads) -> None:
    """validate_args turns it off at tp1."""
    assert recipe_of(SMALL + "--sequence-parallel").values["model.sequence_parallel"] is False
    two = recipe_of(SMALL + "--sequence-parallel --tensor-model-parallel-size 2")
    assert two.values["model.sequence_parallel"] is True
    assert two.layout.uses_sequence_parallel
    assert not recipe_of(SMALL + "--tensor-model-parallel-size 2").layout.uses_sequence_parallel


def test_experts_follow_the_tensor_ranks_unless_told_otherwise(recipe_of: Reads) -> None:
    """In Megatron-LM etp left out is tp, whatever ep is."""
    spread = "--tensor-model-parallel-size 2 --expert-model-parallel-size 4 "
    assert recipe_of(SMALL + spread).layout.etp == 2
    assert recipe_of(SMALL + spread + "--expert-tensor-parallel-size 1").layout.etp == 1


@pytest.mark.parametrize(
    ("flags", "stages"),
    [
        ("", None),
        ("--pipeline-model-parallel-layout Et|t|t|tL", 2),
        ("--pipeline-model-parallel-layout Ett|ttL", None),
        ("--num-layers-per-virtual-pipeline-stage 1", 2),
        ("--num-virtual-stages-per-pipeline-rank 2", 2),
    ],
)
def test_virtual_stages(recipe_of: Reads, flags: str, stages: int | None) -> None:
    """Three ways to say them; without any, messages do not overlap the schedule and are sent in batches."""
    recipe = recipe_of(SMALL + "--pipeline-model-parallel-size 2 " + flags)
    assert recipe.values.get("model.virtual_pipeline_model_parallel_size") == stages
    assert recipe.layout.vpp == (stages or 1)
    assert recipe.values.get("model.overlap_p2p_comm", False) is (stages is not None)
    assert recipe.values.get("model.batch_p2p_comm", True) is (stages is None)


def test_the_numbers_of_the_model(recipe_of: Reads) -> None:
    """By the names of validation.case.model.Model; what the recipe does not say is not there."""
    recipe = recipe_of(
        SMALL + "--vocab-size 1000 --make-vocab-size-divisible-by 128 --tensor-model-parallel-size 2 --mtp-num-layers 1"
    )
    wanted = {
        "num_hidden_layers": 4,
        "first_k_dense_replace": 1,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": None,
        "kv_lora_rank": 32,
        "vocab_size": 1024,
        "routed_scaling_factor": 1.0,
        "tie_word_embeddings": True,
    }
    assert {name: recipe.model[name] for name in wanted} == wanted
    assert "vocab_size" not in recipe_of(SMALL).model


@pytest.mark.parametrize(
    ("flags", "choice"),
    [
        ("--moe-router-pre-softmax", "greedy"),
        ("--moe-router-pre-softmax --moe-router-num-groups 4 --moe-router-group-topk 2", "group_limited_greedy"),
        ("", None),  # a softmax over the chosen, which no model of transformers has
        ("--moe-router-pre-softmax --moe-router-score-function sigmoid --moe-router-enable-expert-bias", None),
    ],
)
def test_how_experts_are_chosen(recipe_of: Reads, flags: str, choice: str | None) -> None:
    """DeepSeek-V2 has a softmax over all experts. Then the model says it, and no setting does."""
    recipe = recipe_of(SMALL + flags)
    assert recipe.model.get("topk_method") == choice
    said = {one.setting.name: one.state for one in trial.of(recipe).told}
    assert (said["model.moe_router_score_function"] == told.CASE) is (choice is not None)


@pytest.mark.parametrize(("flag", "loss"), [("", "mean"), ("--calculate-per-token-loss", "token")])
def test_the_loss_is_part_of_the_recipe(recipe_of: Reads, flag: str, loss: str) -> None:
    """Upstream's own, in which a context-parallel rank counts its own tokens; of another program it is not known."""
    recipe = recipe_of(SMALL + flag)
    assert (recipe.loss, recipe.own_tokens) == (loss, True)
    assert ("context-parallel rank divides" in show.text(recipe)) is (loss == "mean")
    assert "not read" in recipe_of("torchrun my_train.py " + SMALL.replace("\n", " ")).loss_from


def test_every_flag_is_accounted_for(recipe_of: Reads) -> None:
    """Settings, idle, known without a field, and unknown with the nearest."""
    recipe = recipe_of(
        SMALL
        + "--save /models --log-interval 1 --lr-warmup-samples 5 --use-torch-fsdp2 --eod-mask-loss --extra-vocab-size 467 "
        "--swiglo stray --tokenizer-type PretrainedFromHF --load"
    )
    idle = ["--save /models", "--log-interval 1", "--tokenizer-type PretrainedFromHF", "--load"]
    assert [flag.text for flag in recipe.idle] == idle
    assert [flag.text for flag in recipe.beside] == ["--lr-warmup-samples 5", "--use-torch-fsdp2"]
    assert [setting.name for setting in recipe.beyond] == ["eod_mask_loss"]
    assert [(flag.text, flag.reason) for flag in recipe.unknown] == [
        ("--extra-vocab-size 467", ""),
        ("--swiglo stray", "the nearest is --swiglu"),
    ]
    stray = recipe_of(SMALL + "--swiglu stray").unknown
    assert [(flag.text, flag.reason) for flag in stray] == [("stray", "--swiglu takes no such word")]


def test_the_last_of_two_flags_counts(recipe_of: Reads) -> None:
    """As argparse does it; `--name=value` is the same flag."""
    assert recipe_of(SMALL + "--num-layers 6 --num-layers=8").values["model.num_layers"] == 8


def test_releases_have_their_own_flags(recipe_of: Reads) -> None:
    """--cuda-graph-modules came after 0.16."""
    text = SMALL + "--cuda-graph-modules attn"
    assert [flag.text for flag in recipe_of(text).unknown] == ["--cuda-graph-modules attn"]
    assert recipe_of(text, "main").unknown == ()


def test_a_command_line_says_how_many_ranks_train(recipe_of: Reads) -> None:
    """Variables, launcher and program stand before the flags; two nodes of eight are dp 8 at tp2."""
    text = "CUDA_DEVICE_MAX_CONNECTIONS=1 torchrun --nproc_per_node 8 --nnodes=2 pretrain_gpt.py \\\n" + SMALL.replace(
        "\n", " "
    )
    recipe = recipe_of(text + "--tensor-model-parallel-size 2")
    assert (recipe.world, recipe.layout.dp, recipe.program) == (16, 8, "pretrain_gpt.py")
    assert recipe.environment == (("CUDA_DEVICE_MAX_CONNECTIONS", "1"),)


@pytest.mark.parametrize(
    "start",
    [
        "python -m torch.distributed.run --nproc-per-node=4 pretrain_gpt.py",
        "/opt/venv/bin/python3.12 -u -m torch.distributed.launch --nproc_per_node 4 pretrain_gpt.py",
        "torchrun --standalone --nproc-per-node 4 -m pretrain.gpt",
        "torchrun --nproc_per_node 4 --virtual-local-rank -- pretrain_gpt.py",
        "env A=1 /usr/bin/torchrun --nproc-per-node 4 --nnodes 1 pretrain_gpt.py",
        "nohup numactl --cpunodebind=0 torchrun --nproc-per-node 4 pretrain_gpt.py",
        "srun -N2 --ntasks-per-node=2 env A=1 python -W ignore -u pretrain_gpt.py",
        "mpirun -np 4 --bind-to none python -X faulthandler pretrain_gpt.py",
    ],
)
def test_every_launcher_is_taken_apart(recipe_of: Reads, start: str) -> None:
    """The ranks are four, and no word of the launcher is taken for a flag of the program."""
    recipe = recipe_of(f"{start} " + SMALL.replace("\n", " "))
    assert (recipe.world, recipe.unknown) == (4, ())
    assert "pretrain" in recipe.program


def test_what_nobody_says_is_no_number_of_ranks(recipe_of: Reads) -> None:
    """Deepspeed's hosts stand in a file, and a program of another model trains no DeepSeek-V3."""
    flags = SMALL.replace("\n", " ")
    assert recipe_of(f"deepspeed --hostfile h --num_gpus 8 pretrain_gpt.py {flags}").world is None
    assert recipe_of(f"deepspeed --hostfile h --num_gpus 8 --num_nodes 2 pretrain_gpt.py {flags}").world == 16
    with pytest.raises(UsageError, match="pretrain_mamba trains another model than DeepSeek-V3"):
        full.of(recipe_of(f"torchrun examples/pretrain_mamba.py {flags}"))


def test_layers_of_its_own_are_not_compared_unless_they_are_given(recipe_of: Reads) -> None:
    """A model of Megatron-Core's layers stands for the recipe, and every check could pass."""
    tried = trial.of(recipe_of(SMALL + "--spec my_layers.of_ours get_spec"))
    assert told.SPEC in {one.setting.name for one in tried.others}
    assert told.SPEC not in {one.setting.name for one in tried.with_layers_of("my_layers.of_ours:get_spec").others}


def test_flags_of_forks(recipe_of: Reads) -> None:
    """A field that has no flag, a flag of a later release, and names of MindSpeed-LLM for what Megatron-LM has."""
    recipe = recipe_of(SMALL + "--beta-fast 64 --index-topk 8 --offload-optimizer-states --qk-nope-head-dim 192")
    assert (recipe.model["beta_fast"], recipe.model["qk_nope_head_dim"]) == (64, 192)
    assert "Megatron-LM has no flag --beta-fast 64: what a flag of a fork is named after is set" in recipe.doubts
    assert [flag.reason for flag in recipe.unknown] == ["", "the parser of dev has it"]
    own = "--spec mindspeed_llm.tasks.models.spec.deepseek_spec layer_spec --first-k-dense-replace 2 --n-shared-experts 3 "
    text = SMALL.replace("--moe-layer-freq ([0]*1+[1]*3)", own).replace("--moe-shared-expert-intermediate-size 128", "")
    recipe = recipe_of(text + "--rope-scaling-type yarn --rope-scaling-factor 32 --rope-scaling-mscale-all-dim 0.5")
    numbers = ("first_k_dense_replace", "n_shared_experts", "rope_type", "rope_factor", "mscale_all_dim")
    assert tuple(recipe.model[name] for name in numbers) == (2, 3, "yarn", 32.0, 0.5)
    assert not recipe.unknown
    assert "follows from --first-k-dense-replace 2 (mindspeed_llm" in origin(recipe, "model.moe_layer_freq")


def test_layers_that_compute_nothing_are_none_of_the_model(recipe_of: Reads) -> None:
    """MindSpeed puts them in the places of layers: the others and their stages stay, and so does which of them are dense."""
    recipe = recipe_of(
        SMALL.replace("--num-layers 4", "--num-layers 8").replace("--moe-layer-freq ([0]*1+[1]*3)", "--first-k-dense-replace 2")
        + "--noop-layers 0,6,7 --pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 2 --mtp-num-layers 1"
    )
    assert recipe.values["model.pipeline_model_parallel_layout"] == "Et|tt|tt|mL"
    assert (recipe.layout.pp, recipe.layout.vpp) == (2, 2)
    assert (recipe.model["num_hidden_layers"], recipe.model["first_k_dense_replace"]) == (5, 1)
    assert "follows from --noop-layers 0,6,7 (mindspeed_llm" in origin(recipe, "model.num_layers")
    assert not recipe.unknown
    assert not recipe.unlike
    listed = recipe_of(SMALL + "--num-layer-list 1,3 --pipeline-model-parallel-size 2 --moe-token-dispatcher-type alltoall_seq")
    assert (listed.values["model.pipeline_model_parallel_layout"], listed.unlike) == ("Et|tttL", ())
    alone = recipe_of(SMALL + "--noop-layers 3")
    assert alone.model["num_hidden_layers"] == 3
    assert "model.pipeline_model_parallel_layout" not in alone.values


@pytest.mark.parametrize(
    ("flags", "sizes"),
    [
        (SPARSE, (9, 2, 8)),
        ("--enable-dsa-indexer --index-topk 9", (9, 64, 128)),  # MindSpeed-LLM's names and defaults
        ("", (None, None, None)),
        (SPARSE.replace("--experimental-attention-variant dsa", ""), (None, None, None)),  # which nothing reads
    ],
)
def test_sparse_attention_is_a_number_of_the_model(recipe_of: Reads, flags: str, sizes: tuple[int | None, ...]) -> None:
    """A stand-in without it attends to all keys, and would pass."""
    recipe = recipe_of(f"{SMALL} --q-lora-rank 32 {flags}")
    found = stand_in(full.of(recipe))
    model = found.full.model
    assert (model.index_topk, model.index_n_heads, model.index_head_dim) == sizes
    assert found.model.sparse == (sizes[0] is not None)


def test_what_no_field_has_and_changes_numbers_is_not_compared(recipe_of: Reads) -> None:
    """The experts' weights rounded by slime, which 0 turns off: the verdict is not of the recipe."""
    padded = recipe_of(SMALL + "--vocab-size 1000 --make-vocab-size-divisible-by 128").beyond
    assert [(setting.name, setting.value) for setting in padded] == [("rows_of_padding", 24)]
    whole = SMALL + "--vocab-size 1024 --make-vocab-size-divisible-by 128"
    assert not recipe_of(whole).beyond
    assert [setting.value for setting in recipe_of(f"{whole} --tokenizer-type NullTokenizer").beyond] == [127]
    assert not recipe_of(f"{whole} --tokenizer-type NullTokenizer", "0.19.1").beyond
    talks = trial.of(recipe_of(SMALL + "--sft")).others
    assert [one.said for one in talks if "whose prompts the loss leaves out" in one.why] == ["sft=true"]
    for value, there in (("1", ["OPEN_TRAINING_INT4_FAKE_QAT_FLAG=1"]), ("0", [])):
        line = f"OPEN_TRAINING_INT4_FAKE_QAT_FLAG={value} python3 train.py {SMALL}"
        others = trial.of(recipe_of(line.replace("\n", " "))).others
        assert [one.said for one in others if "rounded to int4 in each forward pass" in one.why] == there


@pytest.mark.parametrize(
    ("more", "said", "why"),
    [
        ("--schedules-method dualpipev", "--schedules-method dualpipev", "another pipeline schedule"),
        ("--lora-r 8 --lora-r 16", "--lora-r 16", "adapters train beside the weights"),  # once, the last
        ("--lora-r 8 --lora-alpha 16 --target-modules all-linear", "--lora-r 8", "adapters train"),
        ("--lora-target-modules linear_qkv linear_proj", "--lora-target-modules linear_qkv linear_proj", "adapters train"),
        ("--moe-fb-overlap", "--moe-fb-overlap", "no parser of Megatron-LM knows it"),
        ("--swiglo", "--swiglo", "no parser of Megatron-LM knows it; the nearest is --swiglu"),
        ("--use-torch-fsdp2", "--use-torch-fsdp2", "Megatron-LM knows it, and no case has it"),
    ],
)
def test_a_flag_that_no_case_has_is_not_compared(recipe_of: Reads, more: str, said: str, why: str) -> None:
    """It may change what is computed: no headline is without it, and it counts in a gate's share."""
    others = trial.of(recipe_of(SMALL + more)).others
    (found,) = (one for one in others if one.said.startswith("--"))
    assert (found.said, found.why.startswith(why)) == (said, True)


def test_a_flag_that_nothing_reads_is_no_part_of_the_headline(recipe_of: Reads) -> None:
    """Kernels of Transformer Engine's alone, other positions, where a program runs, and keys, whose values nothing shows."""
    flags = "--enable-experimental --use-rope-scaling --actor-num-nodes 2 --colocate --my-api-key hidden"
    assert [flag.text for flag in recipe_of(SMALL + flags).unknown] == ["--my-api-key"]
    assert not [one.said for one in trial.of(recipe_of(SMALL + flags)).others if one.said.startswith("--")]


def test_ms_swift_names_its_arguments(recipe_of: Reads) -> None:
    """Names with underscores, and true and false behind switches."""
    text = (
        "NPROC_PER_NODE=8 megatron sft --model moonshotai/Moonlight --moe_permute_fusion true --sequence_parallel true "
        "--tensor_model_parallel_size 2 --overlap_grad_reduce false --micro_batch_size 1"
    )
    recipe = recipe_of(text)
    assert (recipe.world, recipe.layout.tp) == (8, 2)
    assert recipe.values["model.moe_permute_fusion"] is True
    assert recipe_of("NNODES=4 " + text).world == 32
    assert not recipe.beyond
    own = recipe_of(
        text + " --loss_scale ignore_empty_think --tuner_type lora --lora_rank 8 --packing true --task_type causal_lm"
    )
    assert [setting.name for setting in own.beyond] == ["loss_scale_of_tokens", "tuner_type", "packing"]
    assert [(one.said, one.state) for one in unread.told(own)] == [("--lora_rank 8", told.IDLE)]
    assert not recipe_of(text + " --loss-scale default --train_type full --packing false").beyond
    assert recipe.values["ddp.overlap_grad_reduce"] is False
    assert ([flag.text for flag in recipe.idle], recipe.unknown) == (["--model moonshotai/Moonlight"], ())


def test_ms_swift_has_defaults_of_its_own(recipe_of: Reads) -> None:
    """The loss per token, no fusion of rope, and of the parser's defaults none."""
    recipe = recipe_of("megatron sft --num_layers 4 --max_length 64")
    assert (recipe.loss, recipe.precision, recipe.batch.sequence, recipe.batch.overall) == ("token", "bf16", 64, 16)
    assert recipe.values["model.moe_router_dtype"] == "fp32"
    assert recipe.values["model.params_dtype"] == "bfloat16"
    assert "of ms-swift" in origin(recipe, "model.moe_router_dtype")
    assert not {"model.rotary_scaling_factor", "model.normalization", "model.apply_rope_fusion"} & recipe.values.keys()
    assert recipe.model == {"num_hidden_layers": 4}
    assert recipe_of("megatron rlhf --num_layers 4").loss == "mean"


def test_slime_sets_arguments_by_itself(recipe_of: Reads) -> None:
    """Its actor says the ranks; bf16, ZeRO and sequences of any length are its own."""
    text = "python3 train.py --actor-num-nodes 2 --actor-num-gpus-per-node 8 " + SMALL.replace("\n", " ").replace("--bf16", "")
    recipe = recipe_of(text)
    assert (recipe.world, recipe.precision) == (16, "bf16")
    assert recipe.values["ddp.use_distributed_optimizer"] is True
    assert recipe.values["model.variable_seq_lengths"] is True
    assert "always set by slime" in origin(recipe, "model.variable_seq_lengths")
    assert recipe_of(text + "--fp16").precision == "fp16"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--num-layers four", "--num-layers takes a whole number, not 'four'"),
        ("--num-layers", "--num-layers needs a value"),
        ("--num-layers 4 --bf16=no", "--bf16 takes no value, and 'no' stands behind it"),
        ("--num-layers 4 --no-rope-fusion False", "--no-rope-fusion takes no value, and 'False' stands behind it"),
        ("--moe-layer-freq ([0]*3+", "a list such as"),
        ("--moe-layer-freq [0]*1000000000", "a list such as"),
        ("--moe-layer-freq \"'([0]*1)'\"", "the quotes are part of the value here: leave them out"),
        ("--moe-layer-freq __import__('os')", "a list such as"),
        ("--transformer-impl quick", "takes one of local, transformer_engine"),
        ("--num-layers $LAYERS", "recipe capture"),
        ("--num-layers 4 --tensor-model-parallel-size 0", "tp is 0"),
        ("--num-layers '4", "is not closed"),
        ("--data-path x", "none of the flags sets a field"),
        ("hello world", "has no flag in it"),
        ("#!/bin/bash\ntorchrun x.py --num-layers 4", "is a launch script"),
        ("ARGS=(\n--num-layers 4\n)\ntorchrun x.py ${ARGS[@]}", "is a launch script"),
        ("cd /models && torchrun x.py --num-layers 4", "is a launch script"),
        ("TP=2\ntorchrun x.py --num-layers 4 --tensor-model-parallel-size $TP", "is a launch script"),
        ("#!/usr/bin/env bash\npython - <<E\nimport os\nE\ntorchrun x.py --num-layers 4", "is a launch script"),
        ("cd /models\nbash train.sh", "is a launch script"),
        ("#!/usr/bin/env python3\nprint(1)", "is a program in Python"),
        ('"""Trains, and don\'t ask."""\n\nimport os\nos.system("torchrun x.py --num-layers 4")', "is a program in Python"),
        *((page.read_text(encoding="utf-8"), "is prose") for page in sorted(ROOT.glob("README*.md"))),
        (
            "# How to train\n\nIt's run with this:\n\n```\nexport A=1\ntorchrun x.py --tp 2\n```\n\n"
            "Then do look at it, please.\nIt takes an hour on the cluster.",
            "is prose",
        ),
        (
            "Dear all,\n\nplease train the model with --bf16, and don't forget to export the weights. Then we are done.",
            "is prose",
        ),
        ("time,loss\n1,2\n3,4\n", "has no flag in it"),
        ("model: 3", "is YAML without"),
        ("", "has no flag in it"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(recipe_of: Reads, text: str, said: str) -> None:
    """What is wrong, and what would work."""
    with pytest.raises(UsageError) as refused:
        recipe_of(text)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--moe-layer-freq ([0]*1+[1]*9)", "moe_layer_freq has 10 layers and the model 4; give as many"),
        ("--moe-layer-freq 2", "moe_layer_freq 2 puts dense layers between"),
        ("--fp16", "--fp16 and --bf16 are both given; keep one"),
        ("--moe-router-topk 99", "num_experts_per_tok 99 is more than the"),
        ("--decoder-first-pipeline-num-layers 2 --num-layers-per-virtual-pipeline-stage 1", "give --num-virtual-stages-per"),
        ("--moe-router-pre-softmax --moe-router-num-groups 4 --moe-router-group-topk 1", "num_experts_per_tok 1 works"),
        ("--normalization LayerNorm", "model.normalization=LayerNorm, and DeepSeek-V3 has RMSNorm; give --norm"),
        ("--position-embedding-type learned_absolute", "the positions are learned_absolute, and DeepSeek-V3 has rotary ones"),
        ("--tensor-model-parallel-size 2", "experts with tp2 and no sequence parallelism; give --sequence-parallel"),
        ("--group-query-attention", "--group-query-attention and --multi-latent-attention exclude each other"),
        ("--mscale -1", "mscale is -1"),
        ("--squared-relu", "--swiglu and --squared-relu are both given"),
        ("--fp16-lm-cross-entropy", "--fp16-lm-cross-entropy goes with --fp16; leave it out"),
        (
            "--num-layers-per-virtual-pipeline-stage 1 --num-virtual-stages-per-pipeline-rank 2",
            "are all ways to say virtual stages",
        ),
        ("--max-position-embeddings 8", "is more than --max-position-embeddings 8; give as many positions"),
        ("--train-iters 9 --train-samples 9", "--train-iters and --train-samples both say how long the run is"),
        (
            "--train-iters 9 --lr-warmup-samples 5",
            "counts iterations, and --lr-warmup-samples does not; give --lr-warmup-iters",
        ),
        ("--train-samples 9 --lr-decay-iters 5", "counts samples, and --lr-decay-iters does not; give --lr-decay-samples"),
        ("--train-iters 9 --lr-warmup-iters 1 --lr-warmup-fraction .1", "--lr-warmup-fraction and --lr-warmup-iters both say"),
        ("--end-weight-decay 0.2", "--end-weight-decay goes with --weight-decay-incr-style linear or cosine"),
        ("--weight-decay-incr-style cosine --end-weight-decay 0.2", "needs --start-weight-decay and --end-weight-decay"),
        ("--use-distributed-optimizer --optimizer sgd", "shares the states of Adam alone, and --optimizer is sgd; leave"),
        ("--overlap-param-gather --overlap-grad-reduce", "--overlap-param-gather goes with --use-distributed-optimizer"),
        ("--overlap-param-gather --use-distributed-optimizer", "--overlap-param-gather goes with --overlap-grad-reduce"),
        (
            "--overlap-param-gather-with-optimizer-step",
            "--overlap-param-gather-with-optimizer-step goes with --overlap-param-gather and virtual stages",
        ),
        ("--recompute-granularity selective --recompute-method block", "--recompute-method is of --recompute-granularity full"),
        (
            "--recompute-granularity full --recompute-method block --distribute-saved-activations",
            "goes with tensor parallelism",
        ),
        ("--context-parallel-size 6", "--seq-length 64 is no multiple of 12, which is twice --context-parallel-size; give one"),
        ("--tp-comm-overlap", "--tp-comm-overlap goes with --sequence-parallel; give both"),
        (
            "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1 --no-overlap-p2p-communication",
            "virtual stages of 2 pipeline ranks go without --no-overlap-p2p-communication",
        ),
        ("--optimizer-cpu-offload", "--optimizer-cpu-offload goes with --use-precision-aware-optimizer; give both"),
        ("--experimental-attention-variant gated_delta_net", "leave --experimental-attention-variant out, or give dsa"),
        (SPARSE.partition(" --dsa-indexer-n")[0], "--dsa-indexer-n-heads and --dsa-indexer-head-dim; give them"),
        (SPARSE, "reads the query latent, and there is none; give --q-lora-rank"),
        (SPARSE + " --q-lora-rank 32 --mtp-num-layers 1", "leave --mtp-num-layers out to compare all the rest"),
        ("--noop-layers 3,x", "takes numbers of layers from 0 with commas between them, such as 61,62,63, and not '3,x'"),
        ("--noop-layers 3,4", "names layer 4, and the 4 layers begin with 0"),
        ("--noop-layers 0,1,2,3", "leaves no layer that computes something; give fewer"),
        ("--noop-layers 3 --pipeline-model-parallel-size 3", "do not fill pp3 equally; give a multiple of 3"),
        (
            "--noop-layers 3 --pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 4",
            "4 layers do not fill the 2 stages with 4 virtual stages each equally",
        ),
        ("--noop-layers 3 --decoder-last-pipeline-num-layers 1", "--decoder-last-pipeline-num-layers both say what stages"),
        ("--num-layer-list 3,1", "--num-layer-list 3,1 has 4 layers for 2 stages, and the model 4 for pp1; give as many"),
        ("--num-layer-list 4,", "takes a number of layers for each stage, such as 7,8,8,7, and not '4,'"),
        ("--moe-router-topk 1 --moe-router-score-function sigmoid", "Megatron-Core does not normalise the router's weight as"),
        (
            "--rotary-scaling-factor 40 --mscale 0.7",
            "mscale is 0.7 and mscale_all_dim 0, with which transformers takes",
        ),
        (
            "--rope-type rope --no-rope-fusion --rotary-scaling-factor 40 --mscale-all-dim 1",
            "without yarn Megatron-Core multiplies the softmax's scale by what rotary_scaling_factor 40.0",
        ),
        ("--rope-type rope", "--rope-type rope of multi-latent attention has no fused rotary embedding; give --no-rope-fusion"),
        ("--hybrid-override-pattern M*", 'hybrid-override-pattern "M*" is of models with layers of Mamba among'),
        ("--heterogeneous-layers-config-path x", "is of models with layers that differ; leave it out"),
    ],
)
def test_nothing_stands_for_what_cannot_train(recipe_of: Reads, more: str, said: str) -> None:
    """A stand-in has other layers and experts, and would pass."""
    with pytest.raises(UsageError, match=re.escape(said)):
        stand_in(full.of(recipe_of(SMALL + more)))


@pytest.mark.parametrize(
    ("more", "world", "said"),
    [
        (
            "--micro-batch-size 3",
            1,
            "--global-batch-size 16 is no multiple of 3, which is --micro-batch-size 3 times 1 data-parallel rank; give",
        ),
        (
            "--global-batch-size 12",
            8,
            "--global-batch-size 12 is no multiple of 8, which is --micro-batch-size 1 times 8 data-parallel ranks;",
        ),
        ("--global-batch-size 12 --pipeline-model-parallel-size 2", 8, ""),
        ("--global-batch-size 12 --decrease-batch-size-if-needed", 8, ""),
        ("--global-batch-size 12", None, ""),
    ],
)
def test_ranks_must_be_able_to_share_a_batch(recipe_of: Reads, more: str, world: int | None, said: str) -> None:
    """As megatron-core asserts when it counts micro-batches; if nobody says how many ranks train, any batch may do."""
    found = recipe_of(SMALL + more, world=world)
    assert found.uneven.startswith(said)
    assert bool(found.uneven) == bool(said)
    if said:
        with pytest.raises(UsageError, match=re.escape(said)):
            stand_in(full.of(found))


LIKE_DEEPSEEK = ("swiglu", "normalization RMSNorm", "disable-bias-linear", "qk-layernorm", "position-embedding-type rope")


@pytest.mark.parametrize("flag", ["multi-latent-attention", *LIKE_DEEPSEEK])
def test_a_script_that_forgets_what_makes_the_model_is_told(recipe_of: Reads, flag: str) -> None:
    """The parser's default is another model, which a stand-in would not have: it has DeepSeek-V3's."""
    with pytest.raises(UsageError, match=f"give --{flag}"):
        full.of(recipe_of(SMALL.replace(f"--{flag}", "")))


def test_ranks_that_do_not_hold_the_layout_are_refused(recipe_of: Reads) -> None:
    """tp2 needs a multiple of two ranks, and ep8 one of eight."""
    with pytest.raises(UsageError, match="the model has no multi-latent attention, and Plumbline compares models that have it"):
        recipe_of("--num-layers 4 --tensor-model-parallel-size 2", world=3)
    with pytest.raises(UsageError, match="do not hold tp x pp x cp = 2"):
        recipe_of(SMALL + "--tensor-model-parallel-size 2", world=3)
    with pytest.raises(UsageError, match="1 rank does not hold etp x ep x pp = 8"):
        recipe_of(SMALL + "--expert-model-parallel-size 8", world=1)


def test_what_follows_says_so(recipe_of: Reads) -> None:
    """Given, following and default are three kinds."""
    recipe = recipe_of(SMALL)
    names = {source: {setting.name for setting in recipe.of(source)} for source in Source}
    assert "model.bf16" in names[Source.GIVEN]
    assert "model.params_dtype" in names[Source.FOLLOWS]
    assert "model.persist_layer_norm" in names[Source.DEFAULT]
    assert sum(map(len, names.values())) == len(recipe.settings)
