"""Rank lists and pipeline stages are those that megatron-core makes."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.core  # noqa: F401
from tests.properties import quick
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.pipeline_layout import parse
from validation.case.preset import TINY
from validation.recipe import pipeline, ranks
from validation.recipe.pipeline import Split

DEGREE = st.sampled_from((1, 2, 3, 4, 6, 8))


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any layout whose experts fill the ranks of a stage, up to 512 ranks."""
    tp, cp, ep, etp = (draw(DEGREE) for _ in range(4))
    smallest = Layout(tp=tp, cp=cp, ep=ep, etp=etp).data_parallel
    dp = smallest * draw(st.integers(1, max(1, 64 // (tp * cp * smallest))))
    return Layout(tp=tp, pp=draw(st.integers(1, 4)), cp=cp, ep=ep, etp=etp, dp=dp)


@quick
@given(layouts())
def test_groups_are_those_of_upstreams_rank_generator(layout: Layout) -> None:
    """Every group, in upstream's order, for dense layers and for experts."""
    from megatron.core.parallel_state import RankGenerator

    found, order = ranks.degrees(layout), "tp-cp-ep-dp-pp"
    dense = RankGenerator(tp=layout.tp, ep=1, dp=layout.data_parallel, pp=layout.pp, cp=layout.cp, order=order)
    experts = RankGenerator(tp=layout.expert_tp, ep=layout.ep, dp=found["edp"], pp=layout.pp, cp=1, order=order)
    upstream = {"etp": "tp", "edp": "dp"}
    for kind in ranks.KINDS:
        generator = dense if kind in ranks.DENSE else experts
        assert [list(group) for group in ranks.groups(layout, kind)] == generator.get_ranks(upstream.get(kind, kind)), kind
        assert {len(group) for group in ranks.groups(layout, kind)} == {ranks.size(layout, kind)}


@quick
@given(layouts())
def test_relations_are_those_of_the_rank_lists(layout: Layout) -> None:
    """The fold to powers of two changes none, and a pipeline group meets every other in one rank."""
    found = {kind: ranks.groups(layout, kind) for kind in ranks.KINDS if ranks.size(layout, kind) > 1}
    expected = {pair: ranks.relation(found[pair[0]], found[pair[1]]) for pair in combinations(found, 2)}
    assert {word for pair, word in expected.items() if "pp" in pair} <= {ranks.APART}
    inside = {pair: word for pair, word in expected.items() if "pp" not in pair}
    kept = ranks.relations(layout.tp, layout.cp, layout.data_parallel, layout.expert_tp, layout.ep)
    assert dict(kept) == inside


@pytest.mark.parametrize(
    ("layout", "pair", "word"),
    [
        (Layout(tp=2, ep=64, dp=32), ("tp", "ep"), ranks.INSIDE),
        (Layout(tp=2, ep=2, dp=2), ("tp", "ep"), ranks.EQUAL),
        (Layout(tp=2, ep=2, etp=2, dp=2), ("tp", "ep"), ranks.APART),
        (Layout(tp=4, ep=2, dp=2), ("tp", "ep"), ranks.AROUND),
        (Layout(tp=2, cp=4, ep=4, dp=1), ("cp", "ep"), ranks.CROSSING),
        (Layout(tp=2, ep=3, dp=3), ("tp", "ep"), ranks.CROSSING),
    ],
)
def test_groups_lie_to_each_other_in_five_ways(layout: Layout, pair: tuple[str, str], word: str) -> None:
    """Worked out by hand."""
    assert ranks.relations(layout.tp, layout.cp, layout.data_parallel, layout.expert_tp, layout.ep)[pair] == word


def upstream_layers(layers: int, layout: Layout, split: Split) -> list[int]:
    """The layers of each chunk as upstream counts them, in the order of the model."""
    from megatron.core.transformer import transformer_block

    config = SimpleNamespace(
        pipeline_model_parallel_layout=None,
        num_layers=layers,
        num_layers_in_first_pipeline_stage=split.first,
        num_layers_in_last_pipeline_stage=split.last,
        account_for_embedding_in_pipeline_split=split.embedding,
        account_for_loss_in_pipeline_split=split.loss,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
    )
    build: Any = transformer_block.get_num_layers_to_build
    virtual = range(layout.vpp) if layout.vpp > 1 else [None]
    return [build(config, vp_stage=stage, pp_rank=rank) for stage in virtual for rank in range(layout.pp)]


@quick
@given(
    st.integers(1, 24),
    st.integers(1, 4),
    st.integers(1, 3),
    st.one_of(
        st.builds(Split, first=st.none() | st.integers(1, 6), last=st.none() | st.integers(1, 6)),
        st.builds(Split, embedding=st.booleans(), loss=st.booleans()),
    ),
)
def test_stages_have_the_layers_that_upstream_builds(layers: int, pp: int, vpp: int, split: Split) -> None:
    """Even ones, uneven ends, embedding or loss in the place of a layer. What upstream refuses or cuts short is refused."""
    layout = Layout(pp=pp, vpp=vpp if pp > 1 else 1)
    model = replace(TINY.model, num_hidden_layers=layers)
    try:
        upstream = upstream_layers(layers, layout, split)
    except AssertionError:
        upstream = []
    if sum(upstream) == layers and min(upstream) >= 0:
        assert [chunk.layers for chunk in pipeline.chunks(model, layout, split)] == upstream
    else:
        with pytest.raises(UsageError, match="layer"):
            pipeline.chunks(model, layout, split)


@pytest.mark.parametrize(
    "text", ["Ettt|(tt|)*29,m|L", "E|(t|)*3tmL", "Et*2|(tt|)*5t|tmL", "E,t|t|,t|L", "(Et|)*1tL", "Et|t*3|mL"]
)
def test_layout_strings_are_read_as_upstream_reads_them(text: str) -> None:
    """Brackets, repetitions and commas."""
    from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

    letters = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}
    rows = PipelineParallelLayerLayout.parse_str_to_list(text)
    assert list(parse(text)) == ["".join(letters[kind.name] for kind in row) for row in rows]
