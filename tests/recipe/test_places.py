"""What a command says of the cases of a recipe decides what of the recipe they can have: nothing of it ends the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.recipe.test_trial import FLAGS
from validation.case import graphs, packages
from validation.case.errors import UsageError
from validation.case.preflight import RULES
from validation.recipe import coverage, read, told, trial
from validation.recipe.recipe import Origin, Setting, Source
from validation.recipe.sentences import limits, lost
from validation.recipe.signature import signature
from validation.recipe.standin import StandIn
from validation.recipe.told import CHANGED, NEEDS, REFUSED, SAME, TRIED, Told
from validation.recipe.trial import Place
from validation.run.options import Settings, parsed

GRAPHS = "--cuda-graph-impl transformer_engine --cuda-graph-scope attn --cuda-graph-warmup-steps 1"
OLD_GRAPHS = "--external-cuda-graph --cuda-graph-scope attn"
FUSED = ("gradient_accumulation_fusion", "attention_backend")
CARD = "--implementation te --transport nccl"


def wanted(folder: Path, more: str, words: str) -> Settings:
    path = folder / "flags.txt"
    path.write_text((FLAGS.replace("--bf16", "") if "--fp16" in more else FLAGS) + more, encoding="utf-8")
    return parsed(["--recipe", str(path), "--world-size", "8", *words.split()])


def said(of: Settings, name: str) -> list[Told]:
    """What becomes of the settings whose names begin so, but for those that every case has."""
    assert of.trial is not None
    return [one for one in of.trial.told if one.setting.name.startswith(name) and one.state != SAME]


@pytest.mark.parametrize(
    ("words", "more", "state", "why"),
    [
        (f"{CARD} --steps 2", GRAPHS, TRIED, ""),
        (f"{CARD} --steps 2", OLD_GRAPHS, TRIED, ""),
        (CARD, GRAPHS, REFUSED, "no step of this case replays them; --steps 2 works"),
        (f"{CARD} --isolated", GRAPHS, REFUSED, "; leave out --isolated and take --steps 2"),
        (f"{CARD} --precision fp32", OLD_GRAPHS, REFUSED, "not in fp32; --precision bf16 with --steps 2 works"),
        ("--implementation te --transport staged --steps 2", GRAPHS, REFUSED, "; --transport nccl works, "),
        (f"{CARD} --steps 2", GRAPHS.replace("attn", "moe_router"), REFUSED, "routers in them"),
        ("--implementation local --transport nccl --steps 2", GRAPHS, NEEDS, "Transformer Engine"),
        ("--steps 2", OLD_GRAPHS, NEEDS, "Transformer Engine"),
    ],
)
def test_cuda_graphs_of_a_recipe_are_compared_or_left_out_whole(
    tmp_path: Path, words: str, more: str, state: str, why: str
) -> None:
    """Each of their settings has the reason. Asks for no GPU."""
    found = wanted(tmp_path, more, words)
    fields = said(found, "model.cuda_graph_")
    assert len(fields) == more.count("--cuda-graph-") + (more == OLD_GRAPHS)
    assert {(one.state, why in one.why) for one in fields} == {(state, True)}
    assert not said(found, "model.external_cuda_graph")  # a configuration with both is refused
    for case in found.cases:
        assert not any(rule(case) for rule in RULES)
        assert (graphs.by(case.training.effective("model")) == graphs.TE) is (state == TRIED)


@pytest.mark.parametrize("here", [False, True])
def test_what_a_gpu_does_not_bring_is_left_out_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    """Megatron-LM's parser turns the fused accumulation of gradients on by itself, and without APEX no model is built."""
    monkeypatch.setattr(packages.Package, "is_here", here)
    found = wanted(tmp_path, "--moe-token-dispatcher-type flex --moe-deepep-num-sms 24 --attention-backend flash", CARD)
    states = {name: said(found, f"model.{name}") for name in (*FUSED, "moe_token_dispatcher_type", "moe_deepep_num_sms")}
    assert {name: {one.state for one in told} for name, told in states.items()} == {
        name: {TRIED if here else NEEDS} for name in states
    }
    if not here:
        assert [one.why for one in states[FUSED[0]]] == ["the package fused_weight_gradient_mlp_cuda of APEX"]


def test_a_setting_that_a_rule_refuses_takes_no_other_with_it() -> None:
    """The rule's sentence has the name of the case in it, and that has most settings, but not those with short forms."""
    recipe = Path(__file__).parent / "known" / "modelzoo-deepseek-v2-lite.txt"
    found = parsed(["--recipe", str(recipe), *CARD.split()])
    assert found.trial is not None
    assert [one.setting.name for one in found.trial.of(REFUSED) if "in the stand-in" in one.why] == ["model.tp_comm_overlap"]
    assert "tp_comm_overlap is of sequence parallelism" in found.trial.of(REFUSED)[0].why


def test_old_names_of_cuda_graphs_are_read_as_the_new_ones(tmp_path: Path) -> None:
    """As Megatron-Core does when it makes a configuration: what goes with them is read. A YAML recipe can say so."""
    path = tmp_path / "flags.txt"
    path.write_text(FLAGS, encoding="utf-8")
    recipe, origin = read.read(path, None, None, 8), Origin(Source.GIVEN, "a key")
    old = (Setting("model.external_cuda_graph", True, origin), Setting("model.cuda_graph_scope", ("attn",), origin))
    kept = [one for one in recipe.settings if not graphs.says(one.name)]
    tried = trial.of(replace(recipe, settings=(*kept, *old)), Place("te", "nccl", steps=2))
    assert set(old) <= {one.setting for one in tried.tried}
    case = replace(tried.small.case(), training=tried.training)
    assert coverage.values(case)[graphs.KIND] == graphs.TE
    assert told._recorded({"model.cuda_graph_scope": "attn"}, {}) == {}  # another release's field says nothing here


def test_old_flags_of_cuda_graphs_set_what_the_parser_makes_of_them(tmp_path: Path) -> None:
    """Since 0.18 the scope is a list of modules."""
    path = tmp_path / "flags.txt"
    path.write_text(FLAGS + OLD_GRAPHS, encoding="utf-8")
    for release, name in (("0.16.1", "model.cuda_graph_scope"), ("0.19.1", "model.cuda_graph_modules")):
        settings = read.read(path, release, None, 8).settings
        given = {one.name: one.value for one in settings if graphs.says(one.name) and one.origin.source is not Source.DEFAULT}
        assert given == {graphs.KIND: graphs.TE, name: ("attn",), "model.external_cuda_graph": False}


@pytest.mark.parametrize(
    ("more", "words", "name", "state", "why"),
    [
        ("--log-num-zeros-in-grad", f"{CARD} --steps 2", "optimizer.log_num_zeros", REFUSED, "in bf16, in which sums"),
        ("--log-num-zeros-in-grad", CARD, "optimizer.log_num_zeros", TRIED, ""),
        ("--fp16 --loss-scale 128", f"{CARD} --precision fp32 --steps 2", "optimizer.loss_scale", REFUSED, "in fp16 alone"),
        ("--grad-reduce-in-bf16", f"{CARD} --isolated", "ddp.grad_reduce_in_fp32", REFUSED, "no isolated modules"),
        ("--grad-reduce-in-bf16", "--isolated", "ddp.grad_reduce_in_fp32", REFUSED, "no isolated modules"),
        (
            "--optimizer-cpu-offload --use-precision-aware-optimizer",
            "--implementation local --transport nccl --steps 2",
            "optimizer.optimizer_cpu_offload",
            REFUSED,
            "what a precision-aware optimizer has",
        ),
        ("--clip-grad 0", f"{CARD} --steps 2", "optimizer.clip_grad", CHANGED, "compared with 1000000000.0 instead"),
    ],
)
def test_a_setting_that_the_asked_for_case_cannot_have_is_left_out(
    tmp_path: Path, more: str, words: str, name: str, state: str, why: str
) -> None:
    """With its reason; the rest runs."""
    found = wanted(tmp_path, more, words)
    (one, *_) = said(found, name)
    assert (one.state, why in one.why) == (state, True)
    assert not any(rule(case) for case in found.cases for rule in RULES)


def test_what_no_setting_is_to_blame_for_is_said_of_the_command(tmp_path: Path) -> None:
    """No setting is left out for a batch that does not divide. Contradicting rates are refused, and so is a typo."""
    found = wanted(tmp_path, "", f"{CARD} --micro-batch-size 3 --steps 2")
    (case,) = found.cases
    assert [sentence.split(" is ")[0] for rule in RULES if (sentence := rule(case))] == [f"batch_size {case.batch_size}"]
    for words, sentence in (
        ("--steps 2 --config optimizer.min_lr=3", "optimizer.min_lr is 3 and"),
        ("--config model.moe_z_loss=1", "there is no setting 'model.moe_z_loss'"),
    ):
        with pytest.raises(UsageError, match=sentence):
            wanted(tmp_path, "", words)
    assert wanted(tmp_path, "--min-lr 1", "--steps 2 --config optimizer.min_lr=0").cases[0].training.steps == 2


BLOCKWISE = "--fp8-format e4m3 --fp8-recipe blockwise"
DELAYED, SELECTIVE = "--fp8-format hybrid --calculate-per-token-loss", "--recompute-granularity selective"
STAGED = "--implementation te --transport staged"
TP1, TP2, TP8 = "--sequence-parallel", "--tensor-model-parallel-size 2", "--tensor-model-parallel-size 8"
AWARE = "--use-distributed-optimizer --use-precision-aware-optimizer"
VALUE, EXPERTS = "--v-head-dim 32", "--expert-tensor-parallel-size 1"
LEFT_OUT = (
    "the precision is fp32",
    "has no isolated modules",
    "has no mean of means",
    "has no selective recomputation",
    "has no formula",
    "undecided in more than 5 layers, and this model has 6: rounding alone is off by half of a tensor'",
    "with optimizer steps and optimizer.use_precision_aware_optimizer leaves checks undecided in more than 3 layers, and this "
    "model has 4: rounding alone is off by half of a tensor; --steps 0 works",
)
USUAL = (64, 24, 16, 16, 16, 96, 48, 48)


def sizes(small: StandIn) -> tuple[int | None, ...]:
    """Widths, latents, a head's key without position and value, dense layers and experts, and tokens of a sequence."""
    model, latents = small.model, (small.model.q_lora_rank, small.model.kv_lora_rank)
    heads = model.qk_nope_head_dim, model.v_head_dim
    return model.hidden_size, *latents, *heads, model.intermediate_size, model.moe_intermediate_size, small.seq_length


@pytest.mark.parametrize(
    ("changes", "more", "words", "expected"),
    [
        ({}, BLOCKWISE, STAGED, (384, 256, 128, 16, 16, 96, 64, 256)),
        ({}, f"{BLOCKWISE} --moe-router-padding-for-fp8 --mtp-num-layers 1", STAGED, (384, 256, 128, 16, 16, 96, 64, 256)),
        ({}, f"{BLOCKWISE} --context-parallel-size 2", STAGED, (384, 256, 128, 16, 16, 96, 64, 512)),
        ({}, BLOCKWISE, f"{STAGED} --micro-batch-size 4 --batch-size 24", (384, 256, 128, 16, 16, 96, 64, 64)),
        ({TP1: "", TP2: ""}, BLOCKWISE, STAGED, (384, 256, 128, 16, 16, 96, 48, 48)),
        ({TP1: "", TP2: "", "--q-lora-rank 128": ""}, BLOCKWISE, STAGED, (256, None, 128, 16, 16, 96, 48, 48)),
        ({"--q-lora-rank 128": "", VALUE: "--v-head-dim 16"}, BLOCKWISE, STAGED, (256, None, 128, 16, 8, 96, 64, 256)),
        ({TP2: TP8, VALUE: "--v-head-dim 64"}, BLOCKWISE, STAGED, (384, 256, 128, 16, 48, 128, 64, 512)),
        ({TP2: TP8, VALUE: "--v-head-dim 16", SELECTIVE: ""}, DELAYED, STAGED, (384, 256, 128, 48, 16, 128, 64, 64)),
        ({EXPERTS: EXPERTS[:-1] + "2", SELECTIVE: ""}, DELAYED, STAGED, (384, 256, 128, 16, 16, 96, 64, 64)),
        ({}, f"{BLOCKWISE} --pipeline-model-parallel-size 2", STAGED, (384, 256, 128, 16, 16, 96, 64, 256)),
        (
            {},
            "--pipeline-model-parallel-size 4",
            f"{STAGED} --config model.fp8=e4m3 --config model.fp8_recipe=blockwise",
            (384, 256, 128, 16, 16, 96, 64, 256),
        ),
        # Without fp8 no size changes.
        ({}, BLOCKWISE, "", USUAL),
        ({}, BLOCKWISE, "--implementation local --transport staged", USUAL),
        ({}, BLOCKWISE, f"{STAGED} --precision fp32", USUAL),
        ({}, BLOCKWISE, f"{STAGED} --isolated", USUAL),
        ({}, BLOCKWISE, f"{STAGED} --config model.fp8=null", USUAL),
        ({SELECTIVE: ""}, "--fp8-format hybrid", STAGED, USUAL),  # delayed, with the mean loss
        ({}, DELAYED, STAGED, USUAL),  # norms are recomputed
        ({}, f"{BLOCKWISE} --pipeline-model-parallel-size 4", STAGED, USUAL),  # too many layers to decide
        ({}, f"{BLOCKWISE} --pipeline-model-parallel-size 2", f"{STAGED} --steps 2", (384, 256, 128, 16, 16, 96, 64, 256)),
        ({}, f"{BLOCKWISE} --pipeline-model-parallel-size 2 {AWARE}", f"{STAGED} --steps 2", USUAL),
        ({}, f"{BLOCKWISE} --pipeline-model-parallel-size 2 {AWARE}", STAGED, (384, 256, 128, 16, 16, 96, 64, 256)),
        ({}, "--fp8-format e4m3 --fp8-recipe tensorwise", STAGED, USUAL),
        ({}, "--fp8-recipe blockwise", STAGED, USUAL),
    ],
)
def test_a_recipe_in_fp8_is_compared_in_sizes_that_fp8_takes(
    tmp_path: Path, changes: dict[str, str], more: str, words: str, expected: tuple[int | None, ...]
) -> None:
    """Of the same signature; if fp8 is not compared they are those of every other place."""
    flags = FLAGS
    for old, new in changes.items():
        flags = flags.replace(old, new)
    path = tmp_path / "flags.txt"
    path.write_text(flags + more, encoding="utf-8")
    found = parsed(["--recipe", str(path), "--world-size", "32", *words.split()])
    assert found.trial is not None
    small = found.trial.small
    assert sizes(small) == expected
    assert (small.lost, small.limits) == (
        lost(signature(small.full).unlike(signature(small.itself))),
        limits(small.full, small.itself),
    )
    (case,) = found.cases if words else found.cases[1:]
    refused = {one.why for one in found.trial.of(REFUSED) if one.setting.name == "model.fp8"}
    assert any(part in str(refused) for part in LEFT_OUT) or not refused
    assert (case.training.fp8 != "none") is (expected != USUAL)
    assert not any(rule(case) for rule in RULES)
