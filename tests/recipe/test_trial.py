"""What is tried of a recipe, and which word each of its settings earns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from validation.case import packages
from validation.case.covered import DIFFERENT, EQUAL, NEEDED, NOT_COMPARED, NOT_EXERCISED
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.settings import written
from validation.recipe import coverage, told, trial, tries
from validation.recipe.coverage import Covered, Ran
from validation.recipe.told import ABSENT, CASE, CHANGED, IDLE, NEEDS, REFUSED, SAME, SHAPED, TRIED, UNREAD
from validation.recipe.trial import Place, Trial
from validation.run.known import table
from validation.run.options import parsed

FLAGS = """
--num-layers 8 --hidden-size 512 --ffn-hidden-size 1024 --num-attention-heads 8 --multi-latent-attention
--q-lora-rank 128 --kv-lora-rank 64 --qk-head-dim 32 --qk-pos-emb-head-dim 16 --v-head-dim 32 --qk-layernorm
--swiglu --normalization RMSNorm --disable-bias-linear --untie-embeddings-and-output-weights --position-embedding-type rope
--num-experts 16 --moe-router-topk 4 --moe-ffn-hidden-size 256 --moe-shared-expert-intermediate-size 256
--moe-layer-freq ([0]*1+[1]*7) --moe-router-score-function sigmoid --moe-router-enable-expert-bias
--moe-router-num-groups 4 --moe-router-group-topk 2 --moe-router-topk-scaling-factor 2.5
--moe-router-load-balancing-type seq_aux_loss --moe-aux-loss-coeff 1e-4 --moe-token-dispatcher-type alltoall
--moe-permute-fusion --moe-grouped-gemm --tensor-model-parallel-size 2 --expert-model-parallel-size 2
--expert-tensor-parallel-size 1 --sequence-parallel --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather
--seq-length 4096 --micro-batch-size 1 --global-batch-size 64 --bf16 --lr 2e-4 --min-lr 1e-5 --lr-decay-style cosine
--train-iters 100 --attention-dropout 0 --hidden-dropout 0.1 --vocab-size 32000 --max-position-embeddings 4096
--recompute-granularity selective --recompute-modules mla_up_proj layernorm --foo-bar 3
--cross-entropy-loss-fusion --cross-entropy-fusion-impl te
"""
"""One recipe with a setting of every kind."""
ABSENT_PACKAGE = packages.Package(("none_such",), "none_such", "nothing brings it", (1, None))
DSA = "--experimental-attention-variant dsa --dsa-indexer-topk 64 --dsa-indexer-n-heads 4 --dsa-indexer-head-dim 64"


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return trial.of_file(recipe(tmp_path_factory.mktemp("recipe")), world=8)


def recipe(folder: Path) -> Path:
    path = folder / "my run.txt"
    path.write_text(FLAGS, encoding="utf-8")
    return path


def state(tried: Trial, name: str) -> str:
    """What becomes of a setting."""
    (found,) = [one for one in tried.told if one.setting.name == name]
    return found.state


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ddp.overlap_param_gather", TRIED),
        ("model.moe_aux_loss_coeff", TRIED),
        ("optimizer.lr", TRIED),
        ("optimizer.clip_grad", TRIED),  # left at upstream's default, which is not Plumbline's
        ("model.moe_token_dispatcher_type", SAME),
        ("model.num_layers", CASE),
        ("model.bf16", CASE),
        ("model.moe_permute_fusion", NEEDS),
        ("model.cross_entropy_loss_fusion", NEEDS),  # native is another kind than Transformer Engine's
        ("model.attention_softmax_in_fp32", UNREAD),  # by Transformer Engine, with which it trains
        ("scheduler.lr_decay_style", TRIED),
        ("model.hidden_dropout", REFUSED),
        ("optimizer.barrier_with_L1_time", IDLE),
        ("optimizer.muon_momentum", UNREAD),
    ],
)
def test_each_setting_is_told_what_becomes_of_it(tried: Trial, name: str, expected: str) -> None:
    assert state(tried, name) == expected


@pytest.mark.parametrize(
    ("more", "name", "expected", "why"),
    [
        ("--grad-reduce-in-bf16", "ddp.grad_reduce_in_fp32", TRIED, ""),  # upstream's default, and not Plumbline's in bf16
        ("--main-grads-dtype bf16", "ddp.grad_reduce_in_fp32", TRIED, ""),
        ("--fp16", "ddp.grad_reduce_in_fp32", REFUSED, "where the loss scale decides"),
        ("--clip-grad 0", "optimizer.clip_grad", CHANGED, "no norm of the gradients"),
        # Of four experts for each that a token chooses at full size; of three here.
        ("--moe-expert-capacity-factor 3.5", "model.moe_expert_capacity_factor", REFUSED, "; 4 and more"),
        (
            "--moe-expert-capacity-factor 5 --moe-pad-expert-input-to-capacity",
            "model.moe_pad_expert_input_to_capacity",
            REFUSED,
            "capacity=true gives an expert more places than there are tokens, and Megatron-Core cannot fill them; 4 works",
        ),
        ("--no-weight-decay-cond-type apply_wd_to_qk_layernorm", "optimizer.apply_wd_to_qk_layernorm", REFUSED, "decay, too"),
        ("--transformer-impl local", "model.transformer_impl", CASE, ""),
        ("--fp8-format hybrid", "model.fp8", NEEDS, "Transformer Engine"),
        ("--fp8-format hybrid --fp8-recipe blockwise", "model.fp8_recipe", NEEDS, "Transformer Engine"),
        ("--num-distributed-optimizer-instances 2", "ddp.num_distributed_optimizer_instances", NEEDS, "the package none_such"),
        ("--lr inf", "optimizer.lr", REFUSED, "is not finite"),
        (
            "--moe-router-load-balancing-type aux_loss seq_aux_loss --moe-aux-loss-coeff 1e-3 1e-4",
            "model.moe_aux_loss_coeff",
            REFUSED,
            "of several balancing losses",
        ),
        (DSA, "model.experimental_attention_variant", CASE, "the model's numbers say it"),
        (DSA, "model.dsa_indexer_topk", CASE, "the model's numbers say it"),
        (f"{DSA} --dsa-indexer-loss-coeff 0.1", "model.dsa_indexer_loss_coeff", REFUSED, "needs a formula"),
        (f"{DSA} --dsa-indexer-loss-coeff 0", "model.dsa_indexer_loss_coeff", UNREAD, "no loss of its own"),
    ],
)
def test_what_a_case_would_have_otherwise_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, name: str, expected: str, why: str
) -> None:
    """Of a switch that changes what is computed no more is said than was compared."""
    monkeypatch.setattr(packages, "OF_SETTINGS", {"ddp.num_distributed_optimizer_instances": ABSENT_PACKAGE})
    path = tmp_path / "flags.txt"
    path.write_text((FLAGS.replace("--bf16", "") if more == "--fp16" else FLAGS) + more, encoding="utf-8")
    tried = trial.of_file(path, world=8)
    (found,) = [one for one in tried.told if one.setting.name == name]
    assert (found.state, why in found.why) == (expected, True)
    assert found.state != TRIED or (name in tried.lanes and (name, False) in tried.training.settings)


CAPACITY, INSTANCES = "moe_expert_capacity_factor", "num_distributed_optimizer_instances"


@pytest.mark.parametrize(
    ("more", "name", "scaled", "why"),
    [
        (
            "--moe-expert-capacity-factor 4",
            f"model.{CAPACITY}",
            3.0,
            "3 in the stand-in, whose experts / top-k are 3 and not 4",
        ),
        ("--moe-expert-capacity-factor 4 --moe-pad-expert-input-to-capacity", f"model.{CAPACITY}", 3.0, "3 in the stand-in"),
        ("--moe-expert-capacity-factor 8", f"model.{CAPACITY}", 6.0, "6 in the stand-in"),
        ("--num-experts 8 --moe-expert-capacity-factor 2", f"model.{CAPACITY}", 3.0, "are 3 and not 2"),  # too few for it
        ("--moe-expert-capacity-factor 4.4", f"model.{CAPACITY}", 3.3, "3.3 in the stand-in"),
        ("--num-distributed-optimizer-instances 4", f"ddp.{INSTANCES}", 2, "2 in the stand-in"),
    ],
)
def test_what_is_measured_by_the_full_size_is_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, name: str, scaled: float, why: str
) -> None:
    """A factor that drops no token at full size drops none in the stand-in, and fits it; the end of the run says so."""
    monkeypatch.setattr(packages, "OF_SETTINGS", {})
    path = tmp_path / "flags.txt"
    path.write_text(FLAGS + more, encoding="utf-8")
    tried = trial.of_file(path, world=32)
    (found,) = (one for one in tried.tried if one.setting.name == name)
    here = dict(tried.training.settings)[name]
    assert here == found.value == pytest.approx(scaled)
    assert why in found.why
    assert any(line.startswith(f"  scaled: {found.said} is {here:g} in") for line in coverage.lines(tried, ()))
    if "pad" in more:
        assert state(tried, "model.moe_pad_expert_input_to_capacity") == TRIED
    if name.startswith("ddp"):
        assert tried.small.layout.data_parallel % 4 == 0  # each of two has several ranks


TE_IGNORES = "ignores this one (Megatron-LM #2357); compared with a core attention that takes it"


@pytest.mark.parametrize(
    ("more", "name", "expected", "why"),
    [
        ("--reset-attention-mask", "reset_attention_mask", REFUSED, TE_IGNORES),
        ("--reset-attention-mask --transformer-impl local", "reset_attention_mask", SHAPED, ""),
        (
            "--reset-attention-mask --no-create-attention-mask-in-dataloader",
            "reset_attention_mask",
            UNREAD,
            "makes no mask (--no-create-attention-mask-in-dataloader)",
        ),
        ("--reset-position-ids", "reset_position_ids", UNREAD, "counted through the sequence"),
        ("--eod-mask-loss", "eod_mask_loss", SAME, "leaves positions out"),
        (f"{DSA} --reset-attention-mask", "reset_attention_mask", REFUSED, "in the stand-in: "),
    ],
)
def test_documents_of_a_recipe_are_those_of_its_cases(tmp_path: Path, more: str, name: str, expected: str, why: str) -> None:
    """The mask is the data shape `documents`; what ignores it is said, and so is what changes no number."""
    path = tmp_path / "flags.txt"
    path.write_text(FLAGS + more, encoding="utf-8")
    tried = trial.of_file(path, world=8)
    (found,) = (one for one in tried.told if one.setting.name == name)
    assert (found.state, why in found.why) == (expected, True)
    masked = expected == SHAPED or why == TE_IGNORES
    assert tried.training.data_shape == ("documents" if masked else "full")
    assert tried.changed([], {}, "").training == tried.training
    assert any("a document's last token" in sentence for sentence in tried.small.lost) is masked
    assert any(line.endswith("as with +documents") for line in coverage.lines(tried, ())) is masked
    assert (found in tried.others) is (expected == REFUSED)
    if expected == SHAPED:
        word = {one.told.setting.name: one.word for one in coverage.covered(tried, ran(tried))}
        assert word[name] == EQUAL
        bugs = [replace(one, bugs={name: "of MTP layers"}) for one in ran(tried)]
        assert {one.told.setting.name: one.word for one in coverage.covered(tried, bugs)}[name] == DIFFERENT


def test_a_micro_batch_of_documents_has_targets_for_the_mean_of_an_mtp_layer(tmp_path: Path) -> None:
    """A sequence without loss is no micro-batch: its mean would be 0 / 0."""
    path = tmp_path / "flags.txt"
    path.write_text(FLAGS + "--mtp-num-layers 1 --reset-attention-mask --eod-mask-loss", encoding="utf-8")
    small = trial.of_file(path, world=8).small
    assert (small.micro_batch_size, small.batch_size % small.layout.data_parallel) == (2, 0)
    assert [sentence[:38] for sentence in small.lost] == ["a micro-batch has one sequence at full"]


GPU = Place("te", "nccl")


@pytest.mark.parametrize(
    ("place", "more", "name", "expected", "why"),
    [
        (GPU, "", "model.moe_permute_fusion", TRIED, ""),
        (GPU, "", "model.cross_entropy_loss_fusion", TRIED, ""),
        (GPU, "--recompute-modules moe_act", "model.recompute_modules", TRIED, ""),
        (GPU, "", "model.hidden_dropout", REFUSED, "dropout is random"),
        (
            GPU,
            "--fp8-format hybrid --fp8-recipe blockwise",
            "model.fp8",
            REFUSED,
            "hybrid with delayed (--fp8 delayed), or e4m3",
        ),
        (GPU, "--fp8-format hybrid", "model.fp8", REFUSED, "has no mean of means as its loss"),
        (Place("local", "nccl"), "", "model.moe_permute_fusion", NEEDS, "Transformer Engine"),
        (Place("local", "nccl"), "", "model.apply_rope_fusion", TRIED, ""),
    ],
)
def test_on_gpus_a_setting_is_judged_by_a_case_there(
    tmp_path: Path, place: Place, more: str, name: str, expected: str, why: str
) -> None:
    """What needs Transformer Engine is set if the case has it; the case is in the recipe's own precision. Asks for no GPU."""
    path = tmp_path / "flags.txt"
    path.write_text(FLAGS + more, encoding="utf-8")
    where = ["--transport", place.transport, "--implementation", place.implementation]
    wanted = parsed(["--recipe", str(path), "--world-size", "8", *where])
    assert wanted.trial
    (found,) = [one for one in wanted.trial.told if one.setting.name == name]
    assert (found.state, why in found.why) == (expected, True)
    (case,) = wanted.cases
    assert (case.precision, case.implementation) == ("bf16", place.implementation)
    assert (name in dict(case.training.settings)) == (expected == TRIED)


def test_on_gpus_what_was_tried_there_says_what_has_an_effect(tried: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was measured with `local` on a CPU, of the others."""
    name = "ddp.overlap_grad_reduce"

    def word(verdict: str, **how: Any) -> str:
        found = {f"{name}=true": {"verdict": verdict, "layout": "dp2", "on": "a GPU"}}
        monkeypatch.setattr(tries, "record", lambda: {"0.0": found})
        there = [replace(one, case=replace(one.case, **how)) for one in ran(tried)]
        return next(one.word for one in coverage.covered(tried, there) if one.told.setting.name == name)

    monkeypatch.setattr(coverage, "table", lambda: {"0.0": MEASURED})
    assert word("no effect", implementation="te") == NOT_EXERCISED
    assert word("equal", implementation="te") == EQUAL
    assert word("does not run", implementation="te") == EQUAL
    assert word("no effect") == EQUAL


@pytest.mark.parametrize(
    ("tried_values", "expected"),
    [
        ({"attn,mlp": "equal"}, ""),
        ({"attn,mlp": "no effect", "mlp": "equal"}, ""),
        ({"attn,mlp": "no effect"}, "megatron-core runs the same lines with it and without it (a GPU)"),
        ({"attn": "no effect", "attn,mlp": "equal"}, "megatron-core runs the same lines with it and without it (a GPU)"),
        ({"attn": "does not run"}, "alone it does not run in a small case: no graph"),
        ({"attn,mlp": "does not run"}, "not measured; `python -m validation tried --only model.cuda_graph_scope` measures it"),
        ({}, "not measured; `python -m validation tried --only model.cuda_graph_scope` measures it"),
    ],
)
def test_on_gpus_another_value_of_a_field_shows_that_it_is_read(
    tried: Trial, monkeypatch: pytest.MonkeyPatch, tried_values: dict[str, str], expected: str
) -> None:
    """Where this one was not tried. What wants a GPU is measured there, and not by what runs on a CPU."""
    name = "model.cuda_graph_scope"
    on, why = {"layout": "single", "on": "a GPU"}, {"does not run": {"why": "no graph"}}
    found = {f"{name}={written(value)}": {"verdict": said, **on, **why.get(said, {})} for value, said in tried_values.items()}
    monkeypatch.setattr(tries, "record", lambda: {"0.0": found})
    monkeypatch.setattr(coverage, "table", lambda: {"0.0": MEASURED})
    there = [replace(one, case=replace(one.case, implementation="te")) for one in ran(tried)]
    assert coverage.not_exercised(name, "attn", there) == expected


@pytest.mark.parametrize(
    ("name", "value", "epsilon", "expected"),
    [
        ("model.dsa_indexer_rotate_activation", False, 1e-5, CASE),
        ("model.dsa_indexer_rotate_activation", True, 1e-5, None),
        ("model.dsa_indexer_k_norm_epsilon", 1e-6, 1e-5, CASE),
        ("model.dsa_indexer_k_norm_epsilon", None, 1e-6, CASE),  # the model's own
        ("model.dsa_indexer_k_norm_epsilon", None, 1e-5, None),
    ],
)
def test_what_sparse_attention_has_in_every_case_is_no_setting(
    tried: Trial, name: str, value: Any, epsilon: float, expected: str | None
) -> None:
    """Fields of 0.19, which Plumbline sets: the others of its kind go the way of any setting."""
    values: dict[str, Any] = {"model.experimental_attention_variant": "dsa", "model.layernorm_epsilon": epsilon}
    found = told._of_sparse(replace(tried.told[0].setting, name=name, value=value), values)
    assert (found and found.state) == expected


def test_what_is_tried_is_set(tried: Trial) -> None:
    """The recipe's own numbers, and none of Plumbline's in their place."""
    assert (tried.training.loss, tried.training.balancing, tried.training.optimizer) == ("mean", "seq_aux_loss", "distributed")
    assert tried.training.balance_coefficient == 1e-4
    adam = tried.training.adam
    assert (adam.learning_rate, adam.clip_norm, adam.beta2, adam.weight_decay) == (2e-4, 1.0, 0.999, 0.01)
    assert tried.lanes == ("ddp.grad_reduce_in_fp32",)


def test_a_recipe_is_two_cases(tmp_path: Path) -> None:
    """The second in its own precision has what fp64 hides, and no steps; both have as many ranks as the stand-in."""
    wanted = parsed(["--recipe", str(recipe(tmp_path)), "--world-size", "8", "--config", "model.moe_z_loss_coeff=0.01"])
    first, second = wanted.cases
    assert (first.precision, first.training.steps) == ("fp64", 2)
    assert (second.precision, second.training.steps) == ("bf16", 0)
    assert first.preset == "my_run"
    assert wanted.max_ranks >= first.layout.ranks
    assert dict(first.training.settings)["model.moe_z_loss_coeff"] == 0.01
    (alone,) = parsed(["--recipe", str(recipe(tmp_path)), "--world-size", "8", "--precision", "fp64", "--steps", "0"]).cases
    assert (alone.precision, alone.training.steps) == ("fp64", 0)


def test_a_recipe_says_model_and_layout_itself(tmp_path: Path) -> None:
    for said in ("--loss token", "--data-shape documents", "--fp8 delayed", "--mtp-loss version", "--candidate-checkpoint /x"):
        with pytest.raises(UsageError, match=f"says model, layout and step by itself; leave out {said.split()[0]}"):
            parsed(["--recipe", str(recipe(tmp_path)), *said.split()])
    for said in ("--data x.jsonl", "--stream"):
        with pytest.raises(UsageError, match=f"has random tokens and whole models; leave out {said.split()[0]}"):
            parsed(["--recipe", str(recipe(tmp_path)), *said.split()])
    file = recipe(tmp_path)
    file.write_text(file.read_text() + " --moe-router-topk 1")
    with pytest.raises(UsageError, match=rf"{file.name}: num_experts_per_tok is 1, where"):
        parsed(["--recipe", str(file), "--world-size", "8"])
    with pytest.raises(UsageError, match="leave out --layouts"):
        parsed(["--recipe", str(recipe(tmp_path)), "--layouts", "tp2"])


def ran(tried: Trial, layout: str = "tp2ep2", steps: int = 2, *, passed: bool = True, in_lane: bool = True) -> list[Ran]:
    case = replace(tried.small.case(), layout=Layout.parse(layout), training=replace(tried.training, steps=steps))
    return [Ran(one, "0.0", passed) for one in (case, *([replace(case, precision="bf16")] if in_lane else []))]


def words(tried: Trial, **how: Any) -> dict[str, Covered]:
    return {one.told.setting.name: one for one in coverage.covered(tried, ran(tried, **how))}


MEASURED = {
    "model.moe_aux_loss_coeff=0.0001": {"lines": {"single": 0}, "read": True},
    "ddp.overlap_grad_reduce=true": {"lines": {"single": 24, "tp2ep2": 0}, "read": True},
    "ddp.check_for_nan_in_grad=true": {"lines": {"single": 0, "tp2ep2": 0, "pp2vpp2": 5}, "read": True},
    "optimizer.lr=0.0002": {"lines": {"single": 0}, "read": True},
    "model.bias_dropout_fusion=true": {"lines": {"single": 0}, "read": True},
    "ddp.grad_reduce_in_fp32=true": {"lines": {"single": 3}, "read": True},
    "optimizer.decoupled_weight_decay=false": {"lines": {"single": 0}, "read": True},
}


def test_a_word_is_earned(tried: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch that is read and changes no line is not exercised; a number that is read is."""
    monkeypatch.setattr(coverage, "table", lambda: {"0.0": MEASURED})
    found = words(tried)
    assert found["model.moe_aux_loss_coeff"].word == EQUAL
    assert found["ddp.overlap_grad_reduce"].word == EQUAL
    assert found["model.bias_dropout_fusion"].word == NOT_EXERCISED
    assert "the same lines" in found["model.bias_dropout_fusion"].why
    assert found["optimizer.clip_grad"].why.startswith("not measured; ")
    assert found["model.moe_permute_fusion"].word == NEEDED
    assert found["model.hidden_dropout"].word == NOT_COMPARED
    assert words(tried, passed=False)["ddp.overlap_grad_reduce"].word == DIFFERENT
    assert words(tried, in_lane=False)["ddp.grad_reduce_in_fp32"].why.startswith("fp64 hides it")
    assert {"model.num_layers", "optimizer.barrier_with_L1_time", "model.moe_token_dispatcher_type"} & found.keys() == set()


def test_a_switch_of_the_optimizer_with_a_formula_is_exercised_if_it_is_read(
    tried: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam or AdamW is one line of Megatron-Core's, and the reference computes another step."""
    monkeypatch.setattr(coverage, "table", lambda: {"0.0": MEASURED})
    name = "optimizer.decoupled_weight_decay"
    coupled = replace(tried, training=tried.training.with_settings({name: False}))
    one = replace(tried.told[0], setting=replace(tried.told[0].setting, name=name, value=False), state=TRIED)
    assert coverage.tried(one, ran(coupled), in_lane=False).word == EQUAL


def test_what_shows_in_other_cases_is_not_exercised_here(tried: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other lines of a pipeline prove nothing without one, nor a learning rate without a step."""
    monkeypatch.setattr(coverage, "table", lambda: {"0.0": MEASURED})
    assert words(tried)["ddp.check_for_nan_in_grad"].word == NOT_EXERCISED
    assert words(tried, layout="pp2")["ddp.check_for_nan_in_grad"].word == EQUAL
    assert (words(tried)["optimizer.lr"].word, words(tried)["scheduler.end_wd"].word) == (EQUAL, EQUAL)
    assert words(tried)["scheduler.lr_decay_steps"].word == EQUAL
    assert words(tried)["scheduler.init_lr"].why == "nothing reads it with scheduler.lr_warmup_steps=0"
    assert words(tried)["scheduler.max_lr"].why == "parameter groups have optimizer.lr"
    slow = replace(tried, training=tried.training.with_settings({"scheduler.lr_warmup_steps": 100}))
    assert words(slow)["scheduler.lr_decay_style"].why == "every step of the case comes before the rate falls"
    without = words(tried, steps=0)
    assert {without[name].why for name in ("optimizer.lr", "scheduler.end_wd")} == {
        "no optimizer steps were taken; --steps 2 takes them"
    }


def test_equal_is_said_of_whole_runs_without_a_known_bug(tried: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with fewer checks proves less, and a bug of the setting is a difference, known or not."""
    monkeypatch.setattr(coverage, "table", lambda: {"0.0": MEASURED})
    name = "ddp.overlap_grad_reduce"

    def word(**how: Any) -> Covered:
        found = coverage.covered(tried, [replace(one, **how) for one in ran(tried)])
        return next(one for one in found if one.told.setting.name == name)

    assert (word(left_out=3).word, word(left_out=3).why) == (NOT_EXERCISED, "6 checks were left out")
    assert word(bugs={name: "it is late"}).why == "known upstream bug: it is late"
    assert word(bugs={name: "it is late"}).word == DIFFERENT
    assert word(bugs={"model.another": "it is late"}).word == EQUAL


def test_what_config_or_a_plugin_changes_is_not_the_recipes(tried: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "table", lambda: {"0.0": MEASURED})
    training = tried.training.with_settings({"ddp.overlap_grad_reduce": False})
    changed = [replace(one, case=replace(one.case, training=training)) for one in ran(tried)]
    found = {one.told.setting.name: one for one in coverage.covered(tried, changed)}
    assert found["ddp.overlap_grad_reduce"].why == "--config sets another value"
    assert found["model.moe_aux_loss_coeff"].word == EQUAL
    by_plugin = [replace(one, overwritten=("model.moe_aux_loss_coeff",)) for one in ran(tried)]
    said = {one.told.setting.name: one.why for one in coverage.covered(tried, by_plugin)}
    assert said["model.moe_aux_loss_coeff"] == "the plugin sets another value"


def test_what_nothing_reads_in_a_case_is_not_exercised(tried: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe whose balancing loss cannot be compared has a factor of none."""
    monkeypatch.setattr(coverage, "table", lambda: {"0.0": MEASURED})
    found = words(tried.changed(["model.moe_router_load_balancing_type"], {}, "no formula"))["model.moe_aux_loss_coeff"]
    assert (found.word, found.why) == (NOT_EXERCISED, "nothing reads it with model.moe_router_load_balancing_type=none")


def test_a_case_sets_what_its_options_stand_for(tried: Trial) -> None:
    """`+seqaux` and `+distributed` are settings, too."""
    case = ran(tried)[0].case
    said = {one.setting.name: coverage.sets(case, one) for one in tried.told}
    assert said["model.moe_router_load_balancing_type"]
    assert said["ddp.use_distributed_optimizer"]
    assert not said["model.moe_permute_fusion"]


def test_a_known_bug_names_its_settings() -> None:
    named = {bug.id: bug.settings for bug in table()}
    assert ("model.cross_entropy_loss_fusion",) in named.values()
    sections = {one.partition(".")[0] for settings in named.values() for one in settings}
    assert sections == {"ddp", "model", "optimizer", "reset_attention_mask"}


def test_what_nobody_measured_is_not_exercised(tried: Trial) -> None:
    """Of a release that the table has not, nothing is claimed."""
    found = words(tried)["ddp.overlap_grad_reduce"]
    assert (found.word, found.why[:37]) == (NOT_EXERCISED, "not measured with megatron-core 0.0; ")


def test_the_end_of_a_run_tells_all_of_it(tried: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "table", lambda: {"0.0": MEASURED})
    found = coverage.covered(tried, ran(tried))
    said = list(coverage.lines(tried, found))
    usual = len(tried.of(SAME))
    assert said[0] == (
        f"Recipe my run.txt: {len(found)} settings, {coverage.counts(found)}; {usual} more are as in every case of Plumbline's"
    )
    assert any(line.startswith("  needs: ") and "model.moe_permute_fusion=true" in line for line in said)
    assert "  cannot be compared: --foo-bar 3 (no parser of Megatron-LM knows it)" in said
    assert sum(one.word == EQUAL for one in found) > 3
    doubting = replace(tried.recipe, doubts=("how long it is, is not said",))
    small = replace(tried.small, lost=("dp groups have 3 ranks at full size",))
    assert list(coverage.lines(replace(tried, recipe=doubting, small=small), found))[1:3] == [
        "  could not be told: how long it is, is not said",
        "  lost in the stand-in: dp groups have 3 ranks at full size",
    ]
    assert said == list(coverage.lines(tried, found, ""))
    short = list(coverage.lines(tried, found, "a command"))
    names = {name for line in short for name in line.partition(": ")[2].partition(" (")[0].split(", ")}
    unlisted = [one for one in found if one.word == NOT_EXERCISED and one.told.said not in names]
    (counted,) = (line for line in short if line.endswith(" that the recipe leaves at a default; `a command` lists all"))
    assert counted.startswith(f"  not exercised here: {len(unlisted)} settings ")
    assert {"model.mtp_loss_scaling_factor", "scheduler.lr_wsd_decay_style"} <= {one.told.setting.name for one in unlisted}
    assert any("optimizer.overlap_param_gather=true" in line for line in short)
    reasons = [line.partition(" (")[2] for line in short if line.startswith("  not exercised here: ") and line is not counted]
    assert reasons == sorted(reasons, key=lambda why: why.startswith("nothing reads it"))
    assert set(short) - {counted} <= set(said) | set(short[1:])


def test_a_field_that_this_megatron_core_has_not_is_not_compared(tried: Trial) -> None:
    """A recipe of a younger release."""
    setting = replace(tried.told[0].setting, name="model.no_such_field")
    found = told._one(setting, tried.small, {}, {}, tried.small.case())
    assert (found.state, found.why) == (ABSENT, "this megatron-core does not have the field")


def test_both_releases_that_are_compared_are_measured() -> None:
    """With the same switches, each in at least one layout or with the reason why it does not run alone."""
    measured = coverage.table()
    assert {"0.16.1", "0.19.2"} <= measured.keys()
    assert all(found["lines"] or found.get("broke") for table in measured.values() for found in table.values())


def test_a_setting_that_the_stand_in_is_too_small_for_is_left_out_with_the_reason(tmp_path: Path) -> None:
    """Groups of 32 micro-batches, of which its batch has fewer; the other settings are tried."""
    path = tmp_path / "flags.txt"
    path.write_text(
        FLAGS
        + " --pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1 "
        + "--microbatch-group-size-per-virtual-pipeline-stage 32"
    )
    found = {one.setting.name: one for one in trial.of_file(path, world=16).told}
    group = found["model.microbatch_group_size_per_vp_stage"]
    assert group.state == REFUSED
    assert "in the stand-in: " in group.why
    assert found["ddp.overlap_grad_reduce"].state == TRIED


def test_a_huggingface_folder_gives_the_numbers_that_flags_leave_to_it() -> None:
    """As ms-swift takes them; whether MTP layers are trained says the recipe."""
    here = Path(__file__).parent
    recipe = here / "known" / "ms-swift-moonlight.txt"
    with pytest.raises(UsageError, match="--hf-model-path"):
        trial.of_file(recipe)
    found = trial.of_file(recipe, folder=here / "models" / "moonlight")
    assert (found.small.full.model.num_hidden_layers, found.small.full.model.num_nextn_predict_layers) == (27, 0)
    assert found.small.layout.name == "pp2ep3"
    assert [one.setting.name for one in found.others] == ["model.perform_initialization", "packing", "--lr_warmup_fraction"]
    assert found.training.balancing == "seq_aux_loss"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--rotary-base 10000", "rope_theta is 10000 by --rotary-base 10000, and 50000.0 in config.json"),
        ("--rotary-scaling-factor 40", "rope_factor is 40.0 by --rotary-scaling-factor 40, and 1.0 in config.json"),
        ("--moe-router-num-groups 4", "n_group is 4 by --moe-router-num-groups 4, and 1 in config.json"),
        (
            "--moe-layer-freq 1 --num-layers 26",
            "num_hidden_layers is 26 by --num-layers 26, and 27 in config.json; first_k_dense",
        ),
        ("--rope-type rope --mtp-num-layers 1 --vocab-size 999 --max-position-embeddings 99999", ""),
    ],
)
def test_flags_of_another_model_than_the_folder_s_are_refused(tmp_path: Path, flag: str, said: str) -> None:
    """The folder's numbers are in every case, so nothing would show the recipe's."""
    here = Path(__file__).parent
    recipe = tmp_path / "flags"
    recipe.write_text((here / "known" / "slime-moonlight.txt").read_text() + " " + flag)
    if said:
        with pytest.raises(UsageError, match=f"flags trains another model than .*moonlight has: {said}"):
            trial.of_file(recipe, folder=here / "models" / "moonlight")
    else:
        assert trial.of_file(recipe, folder=here / "models" / "moonlight").small.full.model.rope_type == "default"


def test_mscale_is_compared_as_transformers_reads_it(tmp_path: Path) -> None:
    """Without mscale_all_dim transformers takes an mscale of 1, whatever config.json says."""
    folder, recipe = tmp_path / "model", tmp_path / "flags"
    folder.mkdir()
    published = json.loads((Path(__file__).parent / "models" / "moonlight" / "config.json").read_text())
    yarn = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 4096, "mscale": 0.5}
    (folder / "config.json").write_text(json.dumps({**published, "rope_scaling": yarn}))
    flags = (
        Path(__file__).parent / "known" / "slime-moonlight.txt"
    ).read_text() + " --mscale-all-dim 0 --rotary-scaling-factor 4"
    recipe.write_text(flags)
    assert trial.of_file(recipe, folder=folder).small.full.model.rope_factor == 4
    yarn |= {"mscale_all_dim": 0.5}
    (folder / "config.json").write_text(json.dumps({**published, "rope_scaling": yarn}))
    with pytest.raises(UsageError, match=r"mscale is 1\.0 by --mscale 1\.0, and 0\.5 in config\.json; mscale_all_dim is 0"):
        trial.of_file(recipe, folder=folder)
