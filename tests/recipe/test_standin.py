"""The small stand-in of a recipe's model and layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import few
from validation.case import preflight
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.model import Model
from validation.case.preset import V3_LAYERS
from validation.recipe import eight_bits
from validation.recipe.pipeline import EVEN, Split
from validation.recipe.signature import Full, Options, distance, of_stages, signature
from validation.recipe.standin import MOST_RANKS, StandIn, stand_in

V3 = replace(V3_LAYERS.model, vocab_size=129280, num_hidden_layers=61, first_k_dense_replace=3)
KIMI = replace(V3, first_k_dense_replace=1, num_attention_heads=64, n_routed_experts=384, n_group=1, topk_group=1)
KIMI = replace(KIMI, rope_theta=50000.0, rope_factor=32.0, routed_scaling_factor=2.827, vocab_size=163840)
MOONLIGHT = replace(
    KIMI,
    hidden_size=2048,
    intermediate_size=11264,
    moe_intermediate_size=1408,
    num_hidden_layers=27,
    num_attention_heads=16,
    n_routed_experts=64,
    num_experts_per_tok=6,
    q_lora_rank=None,
    n_shared_experts=2,
    routed_scaling_factor=2.446,
    rms_norm_eps=1e-5,
    rope_type="default",
    rope_factor=1.0,
)
"""Published config.json of each, the vocabulary included."""


def standing_for(layout: str, model: Model = V3, split: Split = EVEN, most_ranks: int = MOST_RANKS, **data: Any) -> StandIn:
    return stand_in(Full(model, Layout.parse(layout), Options(split), **data), most_ranks)


@pytest.mark.parametrize(
    ("layout", "model", "split", "expected"),
    [
        ("pp16ep64dp64", replace(V3, num_hidden_layers=64), EVEN, "pp3ep3"),
        ("pp16ep64dp64", V3, Split(first=3, last=2), "pp3ep3"),
        ("pp16ep16dp16", KIMI, Split(first=4, last=1), "pp3ep3"),
        ("tp1ep8", MOONLIGHT, EVEN, "ep3"),
        ("cp8dp1", V3, EVEN, "cp4"),
        ("tp2ep8etp2", V3, EVEN, "tp2ep3etp2"),
        ("tp8", V3, EVEN, "tp3"),
        ("tp2pp2vpp4", replace(V3, num_hidden_layers=64), EVEN, "tp2pp2vpp2"),
        ("tp2ep2dp8", V3, EVEN, "tp2ep2dp3"),
        ("ep2dp4", V3, EVEN, "ep2dp4"),
        ("single", V3, EVEN, "single"),
    ],
)
def test_recipes_get_the_smallest_layout_of_the_same_signature(layout: str, model: Model, split: Split, expected: str) -> None:
    """One that is smaller has another signature; cp3 cannot cut yarn's table."""
    found = standing_for(layout, model, split)
    assert (found.layout.name, found.lost) == (expected, ())
    assert found.exact


@pytest.mark.parametrize(
    ("layout", "text", "expected", "small"),
    [
        ("pp4", "E|t*30|t*31|mL", "pp4", "E|tt|ttt|mL"),
        ("pp4", "Et*30|t*31|m|L", "pp4", "Ett|ttt|m|L"),
        ("pp8vpp2", "Et*4|(t*4|)*14tmL", "pp3vpp2", "Ett|tt|tt|tt|tt|tmL"),
        ("pp16ep8", "E|(t*4|)*13t*5|t*4mL", "pp4ep3", "E|tt|ttt|ttmL"),
        ("pp2vpp2", "Et*20|t*20|t*20|tmL", "pp2vpp2", "Ett|tt|tt|tmL"),
    ],
)
def test_stages_that_a_layout_string_says_stay_what_they_are(layout: str, text: str, expected: str, small: str) -> None:
    """The embedding alone, MTP layers or the loss alone, and uneven stages with virtual ones: the case can run."""
    found = standing_for(layout, replace(V3, num_nextn_predict_layers=1), Split(text))
    assert (found.layout.name, found.split.layout, found.exact) == (expected, small, True)
    assert dict(found.training.settings)["model.pipeline_model_parallel_layout"] == small
    assert not any(rule(found.case()) for rule in preflight.RULES)


@pytest.mark.parametrize(
    ("layout", "expected", "lost"),
    [
        ("tp2ep64dp32", "tp2ep4", ["dp groups have 3 ranks or more at full size, and 2 ranks here"]),
        ("pp16ep64dp128", "pp3ep2dp4", ["ep groups have 3 ranks or more at full size, and 2 ranks here"]),
        (
            "tp8pp16vpp2ep64etp1dp8",
            "tp2pp3vpp2ep4",
            [f"{kind} groups have 3 ranks or more at full size, and 2 ranks here" for kind in ("tp", "dp")],
        ),
    ],
)
def test_what_no_small_layout_has_is_lost_and_said(layout: str, expected: str, lost: list[str]) -> None:
    """Experts over more than two tensor ranks and more than two data-parallel ranks need more than 4 expert ranks."""
    found = standing_for(layout, replace(V3, num_hidden_layers=64))
    assert found.layout.name == expected
    assert list(found.lost) == lost
    assert not found.exact


def test_more_ranks_lose_less() -> None:
    """Two expert data-parallel ranks and an interior stage do not fit 16 ranks together with experts over tensor ranks."""
    full = Full(replace(V3, num_hidden_layers=64), Layout(tp=8, pp=16, vpp=2, ep=64, etp=1, dp=16))
    small, large = stand_in(full), stand_in(full, most_ranks=24)
    assert (small.layout.name, large.layout.name) == ("tp2pp2vpp2ep4dp4", "tp2pp3vpp2ep4dp4")
    assert any(sentence.startswith("pp groups") for sentence in small.lost)
    assert not any(sentence.startswith("pp groups") for sentence in large.lost)


def test_numbers_with_a_meaning_stay_and_sizes_shrink() -> None:
    """Moonlight's epsilon, factor and rotary settings; no latent of queries, two shared experts, no groups of experts."""
    found = standing_for("ep8", MOONLIGHT).model
    kept = (
        "rms_norm_eps",
        "routed_scaling_factor",
        "rope_type",
        "rope_theta",
        "rope_factor",
        "q_lora_rank",
        "n_shared_experts",
    )
    assert [getattr(found, name) for name in kept] == [getattr(MOONLIGHT, name) for name in kept]
    assert (found.n_group, found.topk_group, found.num_experts_per_tok, found.n_routed_experts) == (1, 1, 4, 12)
    assert (found.hidden_size, found.num_hidden_layers, found.first_k_dense_replace) == (64, 3, 1)


def test_the_kind_of_routing_stays() -> None:
    """Some groups, all groups, one group, none; two of a group are chosen each time, as HuggingFace scores a group."""
    kinds = {(8, 4, 8): (4, 2, 4), (8, 8, 16): (4, 4, 8), (8, 1, 2): (4, 1, 2), (1, 1, 8): (1, 1, 4), (1, 1, 2): (1, 1, 2)}
    for (groups, chosen, top), expected in kinds.items():
        model = replace(V3, n_group=groups, topk_group=chosen, num_experts_per_tok=top)
        found = standing_for("ep8", model).model
        assert (found.n_group, found.topk_group, found.num_experts_per_tok) == expected


def test_one_expert_a_rank_stays_one() -> None:
    """Four experts on four ranks still have two groups."""
    found = standing_for("ep256", V3)
    assert (found.layout.name, found.model.n_routed_experts, found.model.n_group) == ("ep4", 4, 2)
    assert found.exact


def test_values_stay_wider_or_narrower_than_keys() -> None:
    sizes = [standing_for("tp2", replace(V3, v_head_dim=size)).model.v_head_dim for size in (64, 128, 256)]
    assert sizes == [8, 16, 24]


def test_heads_that_are_exchanged_over_context_parallel_ranks_are_enough() -> None:
    full = Full(V3, Layout(tp=2, cp=2, dp=1), Options(context_parallelism="a2a"))
    assert stand_in(full).model.num_attention_heads == 8


@pytest.mark.parametrize(("layout", "least"), [("single", 2), ("pp2", 3), ("pp8", 4), ("pp2vpp2", 4), ("pp4vpp2", 6)])
def test_there_are_micro_batches_enough_for_a_steady_state(layout: str, least: int) -> None:
    """One more than stages, or twice as many as stages where each has virtual ones."""
    found = standing_for(layout, replace(V3, num_hidden_layers=64))
    assert found.micro_batches == least
    assert found.case().micro_batches == least


def test_the_recipes_own_micro_batch_of_one_sequence_stays() -> None:
    assert [standing_for("dp2", micro_batch_size=size).micro_batch_size for size in (1, 2, 8)] == [1, 2, 2]


def test_uneven_stages_become_the_words_of_a_layout() -> None:
    """`+2-3-1`: dense and expert layers in the first, several in the others but one in the last."""
    assert standing_for("pp16ep16dp16", KIMI, Split(first=4, last=1)).case().arrangement == "pp3ep3+2-3-1"


def test_it_is_said_what_is_compared_and_what_is_not() -> None:
    """A few lines, each a sentence or an inventory."""
    said = standing_for("tp2ep64dp32", seq_length=4096).describe()
    assert said in (Path(__file__).parents[2] / "docs" / "stand-in.md").read_text()
    assert said.splitlines() == [
        "full size: tp2ep64dp32, 64 ranks, 61 layers, 256 experts (4 a rank), hidden size 7168, sequences of 4096 tokens",
        "stand-in:  tp2ep4, 4 ranks, 3 layers, 12 experts (3 a rank), hidden size 64, sequences of 48 tokens "
        "(8 sequences in 2 micro-batches a rank)",
        "lost:      dp groups have 3 ranks or more at full size, and 2 ranks here",
        "not shown: dp32 is dp2, ep64 is ep4 here: a bug that needs larger groups does not show",
        "not shown: 64 ranks are 4 here, on one machine: no network is between them",
        "not shown: 61 layers are 3, 256 experts are 12, 8 experts of a token are 4, 8 groups of experts are 4, "
        "128 heads are 4 here: a bug of a higher number does not show",
        "not shown: hidden size 7168 is 64, expert width 2048 is 48, vocabulary 129280 is 72 here: sums are shorter, so they "
        "round less",
        "not shown: sequences of 4096 tokens have 48 here: late positions do not show",
    ]


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (Layout(ep=3, dp=3), "ep3 does not divide the 256 experts"),
        (Layout(ep=8, dp=4), "not a multiple of the 8 over which its experts"),
        (Layout(tp=3), "tp3 does not divide the 128"),
        (Layout(vpp=2), "vpp2 needs pp of at least 2"),
        (Layout(pp=16, dp=1), "61 layers do not fill the 16 stages equally; --pipeline-model-parallel-layout says what each"),
        (Layout(dp=0), "dp is 0"),
    ],
)
def test_full_size_that_megatron_core_refuses_is_refused(layout: Layout, sentence: str) -> None:
    """A stand-in for what cannot run would say nothing."""
    with pytest.raises(UsageError, match=sentence):
        stand_in(Full(V3, layout))


def test_upstream_pads_a_vocabulary_that_tensor_ranks_do_not_share() -> None:
    assert stand_in(Full(replace(V3, vocab_size=129281), Layout(tp=4))).layout.name == "tp3"


POWER = st.sampled_from((1, 2, 4, 8, 16))


@st.composite
def recipes(draw: st.DrawFn) -> Full:
    """A model and layout that megatron-core takes: powers of two, or dp of any size, with stages of any kind."""
    tp, cp, ep, pp = draw(POWER), draw(POWER), draw(POWER), draw(POWER)
    etp = draw(st.sampled_from([None, 1, tp]))
    vpp = draw(st.sampled_from((1, 2, 4))) if pp > 1 else 1
    layers = pp * vpp * draw(st.integers(1, 4))
    dp = Layout(tp=tp, cp=cp, ep=ep, etp=etp).data_parallel * draw(st.integers(1, 4))
    model = replace(
        draw(st.sampled_from((V3, KIMI, MOONLIGHT))),
        num_hidden_layers=layers,
        first_k_dense_replace=draw(st.integers(0, max(0, layers - 1))),
        n_routed_experts=16 * draw(st.sampled_from((1, 4))),
        n_group=(groups := draw(st.sampled_from((1, 4)))),
        topk_group=(chosen := draw(st.integers(1, groups))),
        num_experts_per_tok=2 * chosen,
        num_nextn_predict_layers=draw(st.integers(0, 3)),
        q_lora_rank=draw(st.sampled_from((None, 1536))),
    )
    return Full(model, Layout(tp, pp, vpp, ep, etp, cp, dp), micro_batch_size=draw(st.integers(1, 3)))


@few
@given(recipes())
def test_a_stand_in_runs_is_its_own_and_says_what_it_lacks(full: Full) -> None:
    """Preflight accepts it, its stand-in is itself, and it is exact where the signatures are equal."""
    found = stand_in(full)
    preflight.check(found.case(), max_ranks=MOST_RANKS, gpus=None, memory=None)
    again = stand_in(found.itself)
    assert (again.itself, again.batch_size, again.lost) == (found.itself, found.batch_size, ())
    assert found.exact == (signature(full) == signature(found.itself))
    assert found.exact == (distance(signature(full), signature(found.itself)) == 0)
    assert distance(of_stages(full), of_stages(found.itself)) <= distance(signature(full), signature(found.itself))


@pytest.mark.parametrize(
    ("layout", "scaling", "latents"),
    [("tp8", "delayed", (768, 384, 48)), ("tp8", "blockwise", (768, 384, 48)), ("single", "blockwise", (256, 128, 32))],
)
def test_both_latents_as_one_product_in_fp8_are_shared_by_its_ranks(
    layout: str, scaling: str, latents: tuple[int, ...]
) -> None:
    """megatron-core 0.17 and later: each rank has a part of the rows of both."""
    small = standing_for(layout)
    training = replace(small.training.with_settings({"model.mla_down_proj_fusion": True}), fp8=scaling)
    case = replace(small.case(precision="bf16"), implementation="te", transport="nccl", training=training)
    found = eight_bits.sized(small, case)
    assert (found.model.q_lora_rank, found.model.kv_lora_rank, found.model.qk_rope_head_dim) == latents
    assert not any(rule(replace(case, model=found.model, seq_length=found.seq_length)) for rule in preflight.RULES)
