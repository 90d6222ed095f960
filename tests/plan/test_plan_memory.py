"""Memory by part: micro-batches under way, optimizer states, recomputation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.plan.estimate import Parts
from validation.plan.fit import GIB, Fit, Question, of_layout
from validation.plan.layouts import split
from validation.plan.policy import Policy, Recompute, of_recipe, recompute
from validation.plan.question import DEEPSEEK_V3
from validation.plan.schedule import peak, under_way
from validation.recipe.recipe import Origin, Recipe, Setting, Source

NONE, SELECTIVE, FULL = Recompute(), Recompute("selective", ("moe_act", "layernorm")), Recompute("full")


def fit(layout: str, policy: Policy | None = None, **changes: Any) -> Fit:
    """DeepSeek-V3 with its MTP layer under a layout."""
    of = Layout.parse(layout)
    question = Question(DEEPSEEK_V3, of.ranks, 8, 74.0, 4096, 1, policy or Policy(recompute=(FULL,)))
    question = replace(question, **changes)
    divided = split(question.model, of)
    assert divided is not None
    found = of_layout(question, of, divided)
    assert found is not None
    return found


def gib(parts: Parts) -> dict[str, float]:
    return {name: size / GIB for name, size in vars(parts).items()}


def test_the_figures_of_deepseek_v3_are_those_counted_by_hand() -> None:
    """tp2pp8ep32dp16, a stage of eight expert layers: 3.82 B weights; 2.82 B are experts', which no other rank has."""
    found = gib(fit("tp2pp8ep32dp16").stages[3])
    weights, experts = 3_818_520_576, 2_818_572_288
    assert found["weights"] == pytest.approx(2 * weights / GIB)
    assert found["gradients"] == pytest.approx(4 * weights / GIB)
    assert found["optimizer"] == pytest.approx(12 * (experts + (weights - experts) / 16) / GIB)
    assert found["activations"] == pytest.approx(8 * 5 * 2 * 2048 * 7168 / GIB)  # layer inputs of five micro-batches
    assert found["logits"] == 0


def test_the_published_run_of_256_gpus_takes_what_is_estimated() -> None:
    """NVIDIA's breakdown of DeepSeek-V3 in bf16, pp4 vpp4 ep64, in their GB: https://arxiv.org/abs/2603.07685, table 3."""
    found = fit("pp4vpp4ep64dp64", Policy(recompute=(NONE,)))
    parts = gib(found.stages[found.worst])
    assert parts["weights"] + parts["gradients"] == pytest.approx(36.4, rel=0.01)
    assert parts["optimizer"] == pytest.approx(32.1, rel=0.01)
    assert parts["activations"] + parts["dispatch"] == pytest.approx(131.0, rel=0.1)
    assert found.gib == pytest.approx(199.5, rel=0.06)


@pytest.mark.parametrize(
    ("policy", "part", "bytes_each"),
    [
        (Policy(distributed=False), "optimizer", 12),
        (Policy(distributed=False, main=0), "optimizer", 8),
        (Policy(distributed=False, offloaded=0.5), "optimizer", 6),
        (Policy(gradients=2), "gradients", 2),
        (Policy(weights=4), "weights", 4),
    ],
)
def test_each_weight_takes_its_bytes(policy: Policy, part: str, bytes_each: int) -> None:
    assert gib(fit("tp2pp8ep32dp16", policy).stages[3])[part] == pytest.approx(bytes_each * 3_818_520_576 / GIB)


def test_instances_of_the_distributed_optimizer_share_among_fewer_ranks() -> None:
    one, two = (fit("tp2pp8ep8dp64", Policy(instances=count)).stages[3].optimizer for count in (1, 2))
    assert two == pytest.approx(2 * one)


def test_more_recomputation_keeps_less() -> None:
    """And full recomputation makes a whole layer again at once."""
    none, some, full = (fit("tp2pp8ep32dp16", Policy(recompute=(one,))).stages[0] for one in (NONE, SELECTIVE, FULL))
    assert none.activations > some.activations > full.activations
    assert none.recomputed == 0 < some.recomputed < full.recomputed


def test_of_a_block_only_the_first_layers_are_recomputed() -> None:
    """All eight are as full recomputation; none are as none."""
    kept = [
        fit("tp2pp8ep32dp16", Policy(recompute=(Recompute("full", block=count),))).stages[2].activations for count in (8, 4, 1)
    ]
    assert kept[0] == fit("tp2pp8ep32dp16").stages[2].activations < kept[1] < kept[2]


def test_recomputing_several_layers_at_once_keeps_fewer_inputs() -> None:
    one, four = (fit("tp2pp8ep32dp16", Policy(recompute=(Recompute("full", at_once=count),))).stages[2] for count in (1, 4))
    assert four.activations == pytest.approx(one.activations / 4)
    entry = 2 * 2048 * 7168
    assert four.recomputed - entry == pytest.approx(4 * (one.recomputed - 7 * entry))


def test_full_recomputation_leaves_the_gradient_of_each_input_that_experts_got() -> None:
    """A dispatcher holds the graph of its layer until the layer's next forward pass; what is at work has its own."""
    entry = 2 * 2048 * 7168
    eight, cut = (
        fit("tp2pp8ep32dp16", Policy(recompute=(Recompute("full", block=count),))).stages[3].recomputed for count in (8, 2)
    )
    assert eight - cut == pytest.approx(6 * entry)
    chunked = fit("tp2pp8vpp2ep32dp16", Policy(recompute=(Recompute("full"),))).stages[3].recomputed
    assert chunked - eight == pytest.approx(4 * entry)  # of the chunk of four layers that is at rest also the inputs


def test_more_rows_for_the_fullest_rank_take_more() -> None:
    even, full = (fit("tp2pp8ep32dp16", imbalance=factor).stages[2] for factor in (1.0, 2.0))
    assert full.dispatch == pytest.approx(1.5 * even.dispatch)  # rows that leave are as many as before
    assert full.recomputed > 1.3 * even.recomputed


def test_the_logits_are_on_the_stage_of_the_loss() -> None:
    """In bf16 and fp32, and in fp32 once more for an MTP layer; a fused loss keeps them in bf16."""
    rows = 4096 * 129280 / 2
    assert [one.logits for one in fit("tp2pp8ep32dp16").stages] == [0.0] * 7 + [10 * rows]
    assert fit("tp2pp8ep32dp16", Policy(fused_loss=True)).stages[7].logits == 4 * rows


def test_the_least_recomputation_that_fits_is_taken() -> None:
    """With more memory less is computed again."""
    assert [fit("tp2pp8ep64dp64", Policy(), room=room).level for room in (40.0, 60.0, 200.0)] == [2, 1, 0]


@pytest.mark.parametrize(("rank", "pp", "batches", "expected"), [(0, 4, 8, 4), (3, 4, 8, 1), (0, 4, 2, 2), (1, 4, 8, 3)])
def test_a_rank_has_a_micro_batch_for_each_stage_behind_it(rank: int, pp: int, batches: int, expected: int) -> None:
    assert under_way(rank, pp, 1, batches) == ((expected,),)


@pytest.mark.parametrize(("rank", "pp", "vpp"), [(0, 4, 2), (3, 4, 2), (1, 2, 3), (0, 8, 4)])
def test_with_virtual_stages_it_has_those_of_the_warm_up_and_one(rank: int, pp: int, vpp: int) -> None:
    """https://arxiv.org/abs/2104.04473: pp - rank - 1, twice, and pp for each further chunk."""
    wanted = 2 * (pp - rank - 1) + (vpp - 1) * pp + 1
    assert peak([1.0] * vpp, rank, pp, 8 * pp) == wanted
    assert peak([1.0] * vpp, rank, pp, pp) <= vpp * pp


def recipe(precision: str = "bf16", **settings: Any) -> Recipe:
    named = {name.replace("__", "."): value for name, value in settings.items()}
    made = tuple(Setting(name, value, Origin(Source.GIVEN, name)) for name, value in named.items())
    return Recipe("flags.txt", "flags", "0.16.1", settings=made, precision=precision)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"weights": 2, "gradients": 4, "main": 4, "moments": 8, "distributed": False}),
        ({"ddp__grad_reduce_in_fp32": False}, {"gradients": 2}),
        ({"ddp__use_distributed_optimizer": True}, {"distributed": True}),
        ({"optimizer__use_precision_aware_optimizer": True, "optimizer__exp_avg_dtype": "bf16"}, {"moments": 6, "main": 4}),
        ({"optimizer__optimizer_cpu_offload": True, "optimizer__optimizer_offload_fraction": 0.5}, {"offloaded": 0.5}),
        ({"optimizer__exp_avg_dtype": "bf16"}, {"moments": 8}),
        (
            {"model__recompute_granularity": "full", "model__recompute_num_layers": 2},
            {"recompute": (Recompute("full", at_once=2),)},
        ),
        ({"model__cross_entropy_loss_fusion": True}, {"fused_loss": True}),
    ],
)
def test_a_recipe_says_what_a_step_takes(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    found = of_recipe(recipe(**settings))
    assert {name: getattr(found, name) for name in expected} == expected


def test_a_recipe_in_fp32_has_no_copies() -> None:
    found = of_recipe(recipe("fp32"))
    assert (found.weights, found.gradients, found.main) == (4, 4, 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, NONE),
        ({"model.recompute_granularity": "selective"}, Recompute("selective", ("core_attn",))),
        (
            {"model.recompute_granularity": "selective", "model.recompute_modules": ("moe_act", "mlp")},
            Recompute("selective", ("moe_act", "mlp")),
        ),
        (
            {"model.recompute_granularity": "full", "model.recompute_method": "block", "model.recompute_num_layers": 3},
            Recompute("full", block=3),
        ),
        ({"model.moe_layer_recompute": True}, Recompute("selective", ("moe",))),
    ],
)
def test_what_is_recomputed_is_read_as_upstream_reads_it(values: dict[str, Any], expected: Recompute) -> None:
    assert recompute(values) == expected


def test_what_is_not_counted_is_said() -> None:
    assert [text.split()[0] for text in of_recipe(recipe(model__fp8="e4m3", model__cpu_offloading=True)).doubts] == [
        "fp8",
        "cpu_offloading",
    ]
    with pytest.raises(UsageError, match="Megatron-FSDP shards weights"):
        of_recipe(recipe(ddp__use_megatron_fsdp=True))
