"""A functional test's model_config.yaml, and Megatron-Bridge's configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.recipe.test_recipe_flags import origin
from validation.case.errors import UsageError
from validation.recipe import read, trial
from validation.recipe.recipe import Recipe, Source

FUNCTIONAL = """# a proxy
ENV_VARS:
  NVTE_FUSED_ATTN: 1
  CUDA_DEVICE_MAX_CONNECTIONS: 1
TEST_TYPE: release
MODEL_ARGS:
  --num-layers: 4 # of 61
  --hidden-size: 128
  --num-attention-heads: 4
  --multi-latent-attention: true
  --num-experts: 8
  --moe-layer-freq: ([0]*1+[1]*3)
  --moe-ffn-hidden-size: 64
  --norm-epsilon: 1e-6
  --bf16: true
  --recompute-granularity: selective
  --recompute-modules: [mlp moe]
  --pipeline-model-parallel-size: 2
  --pipeline-model-parallel-layout: Ett|ttL
  --data-path: ${DATA_PATH}/text
  --auto-detect-ckpt-format:
    true
"""
BRIDGE = """
model:
  _target_: megatron.bridge.models.gpt_provider.GPTModelProvider
  num_layers: 4
  hidden_size: 128
  num_moe_experts: 8
  multi_latent_attention: true
  moe_ffn_hidden_size: 64
  moe_layer_freq: [0, 1, 1, 1]
  layernorm_epsilon: 1e-6
  attention_backend:
    _target_: megatron.core.transformer.enums.AttnBackend
    _call_: true
    _args_: [5]
    _name_: auto
  activation_func:
    _target_: torch.nn.functional.silu
    _call_: false
  autocast_dtype: null
  tensor_model_parallel_size: 2
  pipeline_model_parallel_size: 2
  pipeline_model_parallel_layout:
  - [embedding, decoder, decoder]
  - [decoder, decoder, mtp, loss]
  seq_length: 4096
  vocab_size: 1000
  should_pad_vocab: true
  make_vocab_size_divisible_by: 128
  moe_permute_fusoin: true
ddp: {overlap_grad_reduce: true, grad_reduce_in_fp32: true}
optimizer:
  lr: 3e-4
  exp_avg_dtype: {_target_: torch.bfloat16, _call_: false}
scheduler: {lr_warmup_iters: 10, lr_decay_style: cosine}
train: {train_iters: 100, global_batch_size: 16, micro_batch_size: 1}
mixed_precision:
  {_target_: x.MixedPrecisionConfig, bf16: true, params_dtype: {_target_: torch.bfloat16}, grad_reduce_in_fp32: false}
comm_overlap: {tp_comm_overlap: true, overlap_param_gather: null}
checkpoint: {save: /models}
dataset: {reset_attention_mask: true, reset_position_ids: false, random_seed: 7}
peft: {dim: 8}
sections_to_come: {a: 1}
"""

_SMALLER = ", decrease_batch_size_if_needed: true"


def recipe_of(folder: Path, text: str, world: int | None = None) -> Recipe:
    """The recipe in a file of this text."""
    file = folder / "recipe.yaml"
    file.write_text(text)
    return read.read(file, "0.16.1", world=world)


def test_the_arguments_of_a_functional_test(tmp_path: Path) -> None:
    """`true` is a flag alone, a list its items; variables are the environment, and each flag has its line."""
    recipe = recipe_of(tmp_path, FUNCTIONAL)
    assert recipe.values["model.layernorm_epsilon"] == 1e-6
    assert recipe.values["model.recompute_modules"] == ("mlp", "moe")
    assert recipe.values["model.moe_layer_freq"] == (0, 1, 1, 1)
    assert origin(recipe, "model.num_layers") == "--num-layers 4 (recipe.yaml:7)"
    assert recipe.environment == (("NVTE_FUSED_ATTN", "1"), ("CUDA_DEVICE_MAX_CONNECTIONS", "1"))
    assert [flag.text for flag in recipe.idle] == ["--data-path ${DATA_PATH}/text", "--auto-detect-ckpt-format"]
    assert (recipe.unknown, recipe.layout.pp, recipe.world) == ((), 2, None)


def test_a_mapping_of_flags_alone(tmp_path: Path) -> None:
    """MODEL_ARGS need not be written above them."""
    assert recipe_of(tmp_path, "--num-layers: 4\n--hidden-size: 128\n").values["model.num_layers"] == 4


@pytest.mark.parametrize(("train", "world", "said"), [("", 8, False), ("", 12, True), ("", None, False), (_SMALLER, 12, False)])
def test_ranks_must_be_able_to_share_a_batch(tmp_path: Path, train: str, world: int | None, said: bool) -> None:
    """16 sequences on two data-parallel ranks, or on three, by the names of the file's own keys."""
    recipe = recipe_of(tmp_path, BRIDGE.replace("train_iters: 100", f"train_iters: 100{train}"), world=world)
    sentence = "train.global_batch_size 16 is no multiple of 3, which is train.micro_batch_size 1 times 3 data-parallel ranks"
    assert recipe.uneven == (f"{sentence}; give one" if said else "")


def test_megatron_bridge(tmp_path: Path) -> None:
    """Fields by their names; enumerations, data types and functions by their last one."""
    recipe = recipe_of(tmp_path, BRIDGE, world=8)
    values = recipe.values
    assert values["model.attention_backend"] == "auto"
    assert values["model.activation_func"] == "silu"
    assert values["model.moe_layer_freq"] == (0, 1, 1, 1)
    assert values["optimizer.exp_avg_dtype"] == "bfloat16"
    assert values["optimizer.lr"] == 3e-4
    assert (recipe.model["first_k_dense_replace"], recipe.model["vocab_size"]) == (1, 1024)
    assert (recipe.layout.tp, recipe.layout.dp, recipe.batch.sequence, recipe.batch.overall) == (2, 2, 4096, 16)
    assert values["model.pipeline_model_parallel_layout"] == "Ett|ttmL"
    assert origin(recipe, "model.num_layers") == "model.num_layers (recipe.yaml:4)"


def test_the_old_name_of_limited_groups_is_read(tmp_path: Path) -> None:
    """With as many groups as expert-parallel ranks, as Megatron-Core's own configuration makes of it."""
    old = "num_moe_experts: 8\n  moe_router_topk_limited_devices: 2\n  expert_model_parallel_size: 4"
    model = recipe_of(tmp_path, BRIDGE.replace("num_moe_experts: 8", old)).model
    assert (model["n_group"], model["topk_group"]) == (4, 2)


def test_mixed_precision_and_overlap_overwrite_fields_of_their_names(tmp_path: Path) -> None:
    """As their `setup` does; what comm_overlap leaves open stays."""
    recipe = recipe_of(tmp_path, BRIDGE)
    assert recipe.values["ddp.grad_reduce_in_fp32"] is False
    assert recipe.values["model.params_dtype"] == recipe.values["optimizer.params_dtype"] == "bfloat16"
    assert recipe.values["model.tp_comm_overlap"] is True
    assert "ddp.overlap_param_gather" not in recipe.values
    assert recipe.precision == "bf16"
    follows = next(one for one in recipe.settings if one.name == "ddp.grad_reduce_in_fp32")
    assert follows.origin.source is Source.FOLLOWS


def test_the_schedule_of_megatron_bridge_is_counted_in_samples(tmp_path: Path) -> None:
    """lr_warmup_iters and train_iters, times the global batch."""
    values = recipe_of(tmp_path, BRIDGE).values
    assert (values["scheduler.lr_warmup_steps"], values["scheduler.lr_decay_steps"]) == (160, 1600)
    assert values["scheduler.lr_decay_style"] == "cosine"
    assert values["scheduler.max_lr"] == 3e-4


def test_nothing_of_megatron_bridge_is_dropped(tmp_path: Path) -> None:
    """A misspelt field with the nearest, sections that change no number, and those that are not read."""
    recipe = recipe_of(tmp_path, BRIDGE)
    said = [(flag.text, flag.reason) for flag in recipe.unknown]
    assert said == [("model.moe_permute_fusoin", "the nearest field is moe_permute_fusion")]
    assert [flag.text for flag in recipe.idle] == ["checkpoint", "dataset"]
    assert [setting.name for setting in recipe.beyond] == [
        "reset_attention_mask",
        "skip_getting_attention_mask_from_dataset",
        "peft",
        "rows_of_padding",
    ]
    assert [flag.text for flag in recipe.beside] == ["sections_to_come"]
    more = BRIDGE.replace("scheduler: {", "scheduler: {no_weight_decay_cond_type: apply_wd_to_qk_layernorm, ")
    more = more.replace("train: {", "train: {rampup_batch_size: [8, 8, 100], ")
    assert more != BRIDGE
    assert [flag.text for flag in recipe_of(tmp_path, more).beside] == [
        "scheduler.no_weight_decay_cond_type",
        "train.rampup_batch_size",
        "sections_to_come",
    ]


def test_keys_that_are_merged_count(tmp_path: Path) -> None:
    """Of one mapping or of several, of which the first that has a key counts; as often as they are named, each is read once."""
    shared = "a: &a {num_layers: 6}\nb: &b {num_layers: 7, hidden_size: 256}\n"
    shared += "".join(f"c{n}: &c{n} {{<<: [*{'b' if n == 0 else f'c{n - 1}'}, *b]}}\n" for n in range(40))
    recipe = recipe_of(tmp_path, shared + "model: {<<: [*a, *c39], kv_lora_rank: 32}\n")
    assert (recipe.model["num_hidden_layers"], recipe.model["hidden_size"], recipe.model["kv_lora_rank"]) == (6, 256, 32)
    many = shared + "".join(f"c{n}: &c{n} {{<<: *c{n - 1}}}\n" for n in range(40, 60)) + "model: {<<: *c59}\n"
    with pytest.raises(UsageError, match="line 3: more than 60 mappings are merged; write their keys out"):
        recipe_of(tmp_path, many)


@pytest.mark.parametrize(
    ("line", "there"),
    [
        ("transformer_layer_spec: {_target_: mine.layers, _call_: false}", "spec='mine.layers'"),
        ("transformer_layer_spec: {_target_: megatron.core.models.gpt.gpt_layer_specs.x, _partial_: true}", "spec=''"),
        ("fp16_lm_cross_entropy: true", "Setting(name='fp16_lm_cross_entropy'"),
        ("is_hybrid_model: true", "is-hybrid-model true is of models with layers of Mamba"),
        ("hybrid_layer_pattern: M*", "is of models with layers of Mamba among those with attention; leave it out"),
    ],
)
def test_what_makes_another_model_is_not_dropped(tmp_path: Path, line: str, there: str) -> None:
    """Layers of somebody's own, of another kind, and a loss in another precision."""
    assert there in str(recipe_of(tmp_path, BRIDGE.replace("model:\n", f"model:\n  {line}\n")))


def test_words_of_yaml_1_1_are_what_megatron_bridge_reads(tmp_path: Path) -> None:
    """OmegaConf reads them: `no` is false, and not a text that counts as true."""
    words = (
        "{bf16: no, calculate_per_token_loss: off, sequence_parallel: Yes, num_layers: 0x10, hidden_size: '16', mscale: 1e-1}"
    )
    recipe = recipe_of(tmp_path, f"model: {words}\n")
    assert (recipe.precision, recipe.loss) == ("fp32", "mean")
    values = {name.removeprefix("model."): value for name, value in recipe.values.items()}
    assert (values["sequence_parallel"], values["num_layers"], values["hidden_size"]) == (True, 16, "16")
    assert values["mscale"] == 0.1


def test_overrides_alone_do_not_give_the_model(tmp_path: Path) -> None:
    """A file without layers, width and experts says no number of the model that it does not have."""
    recipe = recipe_of(tmp_path, "model: {tensor_model_parallel_size: 2, mtp_num_layers: 1}\nmixed_precision: bf16_mixed\n")
    assert recipe.model == {"num_nextn_predict_layers": 1}
    assert recipe.values["model.bf16"] is True
    assert any("overrides" in doubt for doubt in recipe.doubts)
    assert recipe.beyond == ()
    named = recipe_of(tmp_path, "model: {num_layers: 4}\nmixed_precision: bf16_with_mxfp8_mixed\npeft: lora\nddp: null\n")
    assert [(one.name, one.value) for one in named.beyond] == [("mixed_precision", "bf16_with_mxfp8_mixed"), ("peft", True)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {num_layers: 4}\nmodel: {num_layers: 5}", "model is there twice"),
        ("MODEL_ARGS:\n  --num-layers: 4\n  --num-layers: 5", "--num-layers is there twice"),
        ("MODEL_ARGS: {}", "is empty"),
        ("MODEL_ARGS: 3", "is empty"),
        ("model: {num_layers: " + "[" * 99 + "]" * 99 + "}", "nested too deep"),
        ("some: thing", "is YAML without"),
        ("scheduler: {type: local}\nmodel: {hf_id: a/b}", "none of its keys is a field of Megatron-Core"),
        (
            "system: {}\nmodel:\n  num_layers: 4\n  num_experts: 8\n",
            "has arguments of Megatron-LM in its YAML .num_experts., as FlagScale",
        ),
        ("model: {num_layers: 4}\noptimizer: {lr: '1e-4'}", "yaml:2: lr takes a number, not '1e-4'; write it without quotes"),
        (
            "MODEL_ARGS:\n  --num-layers: 4\n  --bf16: false",
            "--bf16 takes no value, and 'false' stands behind it; write the flag",
        ),
        ("MODEL_ARGS:\n\t--num-layers: 4", "line 2: .* cannot start any token; write one document"),
        ("MODEL_ARGS:\n  --num-layers: 4\n---\nmodel: {}", "line 3: expected a single document"),
        ("model: {num_layers: 4}\noptimizer: [lr]", "yaml:2: optimizer holds no keys; write `field: value` lines below it"),
        ("MODEL_ARGS:\n  --my-flag: 4", "recipe.yaml: none of the flags sets a field"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, text: str, said: str) -> None:
    """One sentence."""
    with pytest.raises(UsageError, match=said):
        recipe_of(tmp_path, text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "mtp_num_layers: '1'",
            "it takes a whole number or null; this is text: write it without quotes",
        ),
        ("kv_lora_rank: true", "model.kv_lora_rank=True: it takes a whole number"),
        ("tensor_model_parallel_size: 2.5", "tp is 2.5; a degree is a whole number from 1 to"),
        ("moe_router_num_groups: 2.5", "model.moe_router_num_groups=2.5: it takes a whole number or null"),
        ("moe_layer_freq: '[0, 1, 1, 1]'", "model.moe_layer_freq=[0, 1, 1, 1]: it takes"),
    ],
)
def test_a_number_of_another_type_is_refused(tmp_path: Path, line: str, said: str) -> None:
    """The stand-in has numbers of its own: it would pass whatever stands there."""
    key = line.partition(":")[0]
    text = "\n".join(row for row in BRIDGE.splitlines() if not row.startswith(f"  {key}:"))
    with pytest.raises(UsageError, match=re.escape(said)):
        trial.of(recipe_of(tmp_path, text.replace("model:\n", f"model:\n  {line}\n")))


def test_nothing_in_yaml_is_run(tmp_path: Path) -> None:
    """A tag of Python's is text like any other."""
    text = "model:\n  num_layers: 4\n  init_method: !!python/object/apply:os.system ['touch x']\n"
    recipe = recipe_of(tmp_path, text)
    assert recipe.values["model.init_method"] == ("touch x",)
    assert list(tmp_path.iterdir()) == [tmp_path / "recipe.yaml"]
