"""What a forward pass keeps is estimated tensor by tensor, and held against torch's own account."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.case.test_preflight import case
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import MINI
from validation.plan import weights
from validation.plan.estimate import Step, of_layer

SMALL = {"num_hidden_layers": 2, "vocab_size": 72}


@contextmanager
def saved(module: torch.nn.Module) -> Iterator[list[int]]:
    """Yields the bytes of each storage that a forward pass keeps for the backward pass; weights are not counted."""
    known = {one.untyped_storage().data_ptr() for one in module.parameters()}
    alive, found = [], list[int]()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            alive.append(storage)  # else its address is given away again
            found.append(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def measured(of: Case, layer: int, as_rank: Any) -> int:
    """What one layer of a case keeps of a micro-batch on a CPU."""
    with as_rank(of, 0, "cpu") as (chunk,):
        for one in chunk.parameters():
            torch.nn.init.normal_(one, std=0.02)
        size = (of.seq_length // of.layout.cp, of.micro_batch_size, of.model.hidden_size)
        hidden = torch.randn(size, dtype=torch.bfloat16, requires_grad=True)
        block = chunk.decoder.layers[layer]
        with saved(block) as found:
            block(hidden_states=hidden, attention_mask=None, rotary_pos_emb=None)
        return sum(found)


def estimated(of: Case, kind: str) -> float:
    step = Step(of.seq_length, of.micro_batch_size, 1, implementation="local")
    return sum(item.size for item in of_layer(of.model, of.layout, kind, step))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (weights.DENSE, {}),
        (weights.DENSE, {"q_lora_rank": None}),
        (weights.EXPERT, {}),
        (weights.EXPERT, {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 2}),
    ],
)
def test_a_layer_keeps_what_is_estimated(kind: str, changes: dict[str, Any], as_rank: Any) -> None:
    """Within 2 %, in bf16 on a CPU. What is left are tables of positions, which do not grow with the batch."""
    of = replace(case(model={**SMALL, **changes}, precision="bf16"), seq_length=48, micro_batch_size=4)
    found = measured(of, 0 if kind == weights.DENSE else 1, as_rank)
    assert estimated(of, kind) == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize(("kind", "measured_mib"), [(weights.DENSE, 234), (weights.EXPERT, 274)])
def test_a_layer_keeps_on_an_h200_what_is_estimated(kind: str, measured_mib: int) -> None:
    """Of mini with Transformer Engine 2.11 in bf16, 4096 tokens, without fusions: benchmarks/activations.py, docs/plan.md."""
    step = Step(4096, 1, 1, unfused=True)
    kept = sum(item.size for item in of_layer(MINI.model, Layout(), kind, step)) / 2**20
    assert kept == pytest.approx(measured_mib, rel=0.02)
