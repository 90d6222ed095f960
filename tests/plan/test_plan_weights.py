"""Weights of each rank are counted as megatron-core builds them, and add up to published totals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.case.test_preflight import case
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.model import Model
from validation.case.preset import TINY
from validation.case.training import Training
from validation.plan import weights
from validation.plan.question import DEEPSEEK_V3
from validation.plan.weights import Held
from validation.recipe.pipeline import EVEN, Split, chunks

MTP = {"num_nextn_predict_layers": 1}


def counted(case: Case, split: Split = EVEN) -> tuple[Held, ...]:
    """What each chunk holds, by the plan."""
    found = chunks(case.model, case.layout, split)
    return weights.of_chunks(case.model, case.layout, found, case.implementation)


def built(case: Case, as_rank: Any) -> dict[int, Held]:
    """What each chunk of one rank of each pipeline stage holds, in the order of the model, as megatron-core has it."""
    found, layout = {}, case.layout
    for stage in range(layout.pp):
        with as_rank(case, stage * (layout.ranks // layout.pp)) as made:
            for virtual, chunk in enumerate(made):
                experts = [one.numel() for one in chunk.parameters() if not getattr(one, "allreduce", True)]
                whole = [one.numel() for one in chunk.parameters()]
                found[virtual * layout.pp + stage] = Held(sum(whole) - sum(experts), sum(experts))
    return dict(sorted(found.items()))


@pytest.mark.parametrize(
    ("layout", "model", "text"),
    [
        ("tp2ep2", {}, ""),
        ("tp2pp2ep2etp2", MTP, ""),
        ("pp2vpp2ep2", {}, ""),
        ("tp2pp2ep2", {**MTP, "q_lora_rank": None, "tie_word_embeddings": True}, ""),
        ("pp4ep2", MTP, "Ettt|t|m|L"),
        ("pp2vpp2ep2", {"num_nextn_predict_layers": 2}, "Ett|t|t|mmL"),
        ("ep2", {"first_k_dense_replace": 0}, ""),
    ],
)
def test_a_rank_holds_as_many_weights_as_megatron_core_builds(
    layout: str, model: dict[str, Any], text: str, as_rank: Any
) -> None:
    """Dense weights and those of routed experts, chunk by chunk: MTP layers, tied embeddings, stages of the loss alone."""
    training = Training().with_settings({"model.pipeline_model_parallel_layout": text} if text else {})
    of = case(layout, model, training=training)
    assert tuple(built(of, as_rank).values()) == counted(of, Split(text or None))


def test_a_rank_of_deepseek_v3_holds_as_many_weights_as_megatron_core_builds(as_rank: Any) -> None:
    """At full width, on 512 ranks, a rank with MTP and one with dense and expert layers; of the layers only five."""
    text = "E|tttt|tm|L"
    training = Training().with_settings({"model.pipeline_model_parallel_layout": text})
    of = replace(case("tp2pp4ep64dp64", training=training), model=replace(DEEPSEEK_V3, num_hidden_layers=5))
    wanted = counted(of, Split(text))
    for stage in (1, 2):
        with as_rank(of, stage * 128 + 127) as (chunk,):
            assert sum(one.numel() for one in chunk.parameters()) == wanted[stage].elements


def test_deepseek_v3_has_its_published_number_of_parameters() -> None:
    """671 B, 37 B of them for a token; 14 B of MTP on the hub, 11.6 B without its copies of embedding and head.

    https://huggingface.co/deepseek-ai/DeepSeek-V3 and README_WEIGHTS.md there.
    """
    assert (weights.total(DEEPSEEK_V3), weights.active(DEEPSEEK_V3)) == (671_026_404_352, 37_552_282_624)
    copied = 2 * DEEPSEEK_V3.vocab_size * DEEPSEEK_V3.hidden_size
    assert weights.total(DEEPSEEK_V3, mtp=True) - weights.total(DEEPSEEK_V3) + copied == pytest.approx(14e9, rel=0.05)


@pytest.mark.parametrize("layout", ["single", "tp4", "ep8", "pp4", "tp2pp2ep4"])
def test_the_ranks_of_a_layout_hold_the_whole_model(layout: str) -> None:
    """Each weight once over the ranks, but for norms, routers and latents, which are whole everywhere."""
    of = Layout.parse(layout)
    model: Model = replace(TINY.model, num_hidden_layers=4)
    found = weights.added(weights.of_chunks(model, of, chunks(model, of)))
    assert found.experts * of.ep * of.expert_tp == weights.of_chunks(model, Layout(), chunks(model, Layout()))[0].experts
    assert weights.total(model) <= found.dense * of.tp + found.experts * of.ep * of.expert_tp
