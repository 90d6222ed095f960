"""Which CUDA graphs settings ask for, by new names and old."""

from __future__ import annotations

from dataclasses import replace

import pytest

from validation.case import graphs
from validation.case.annotation import Value
from validation.case.preset import TINY

DENSE = replace(TINY.model, first_k_dense_replace=TINY.model.num_hidden_layers)
OF_TE = {"cuda_graph_impl": "transformer_engine"}


@pytest.mark.parametrize(
    ("model", "who", "parts"),
    [
        ({}, "none", set()),
        ({"cuda_graph_impl": "none", "cuda_graph_scope": "attn"}, "none", {"attn"}),
        ({"enable_cuda_graph": True}, "local", set()),
        ({"external_cuda_graph": True, "cuda_graph_scope": "full"}, "transformer_engine", set()),
        ({**OF_TE, "cuda_graph_scope": "attn, moe_router"}, "transformer_engine", {"attn", "moe_router"}),
        ({**OF_TE, "cuda_graph_modules": ("attn", "mlp")}, "transformer_engine", {"attn", "mlp"}),
        ({**OF_TE, "cuda_graph_modules": "full", "cuda_graph_scope": "attn"}, "transformer_engine", {"attn"}),
    ],
)
def test_who_records_which_parts(model: dict[str, Value], who: str, parts: set[str]) -> None:
    assert (graphs.by(model), set(graphs.parts(model))) == (who, parts)


@pytest.mark.parametrize(
    ("model", "of_experts", "of_dense_layers"),
    [
        ({"cuda_graph_scope": "moe_router"}, None, None),
        ({**OF_TE, "cuda_graph_scope": "attn"}, None, None),
        (OF_TE, "whole layers have routers", None),
        ({"cuda_graph_impl": "local"}, "cannot record one with experts", None),
        ({"cuda_graph_impl": "full_iteration"}, "of a whole iteration", "of a whole iteration"),
        ({"cuda_graph_impl": "local", "cuda_graph_scope": "full_iteration"}, "of a whole iteration", "of a whole iteration"),
    ],
)
def test_which_cannot_be_compared(model: dict[str, Value], of_experts: str | None, of_dense_layers: str | None) -> None:
    for shape, said in ((TINY.model, of_experts), (DENSE, of_dense_layers)):
        found = graphs.unfit(model, shape)
        assert (found is None) if said is None else (said in str(found) and "cuda_graph_scope=attn works" in str(found))
