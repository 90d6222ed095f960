"""A gradient is taken once where activations are recomputed inside activations that are recomputed.

megatron-core nests them with `recompute_modules` moe and shared_experts: the inner forward pass runs twice without a graph.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests import core  # noqa: F401 - megatron-core is imported as a rank imports it
from tests.run.test_references import CASE
from validation.candidate.place import Place
from validation.candidate.probes import PROBE_GRADIENTS, ProbedChunk
from validation.candidate.replay import Choices
from validation.case.probes import Probe

NAME = "layers.1.moe.shared_expert"
MICRO_BATCHES = (2.0, 3.0)


def once(run: Any, given: torch.Tensor) -> torch.Tensor:
    return run(given)


def again(run: Any, given: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = checkpoint(run, given, use_reentrant=True)
    return found


@pytest.mark.parametrize("outer", [once, again])
@pytest.mark.parametrize("inner", [once, again])
def test_each_gradient_comes_once_and_with_its_micro_batch(outer: Any, inner: Any) -> None:
    case = replace(CASE, batch_size=2, micro_batch_size=1, seq_length=4)
    seen = list[tuple[str, float]]()
    chunk: Any = object.__new__(ProbedChunk)
    probe = Probe(NAME, 0, ("batch", "sequence", "hidden"), (2, 4, 3))
    chunk.__dict__ |= {
        "_case": case,
        "_values": False,
        "_divisor": 1.0,
        "_waiting": defaultdict(deque),
        "_stopped": False,
        "_place": Place(case, tp=0, cp=0, dp=0),
        "_probes": {NAME: probe},
        "_recorder": SimpleNamespace(compare=lambda name, part, box, *_, **__: seen.append((name, part.mean().item()))),
        "_reference": SimpleNamespace(probe_gradients=None),
    }
    ends = []
    for micro_batch, factor in enumerate(MICRO_BATCHES):
        chunk._micro_batch, chunk._running = micro_batch, True
        given = torch.ones(4, 1, 3, dtype=torch.float64, requires_grad=True)
        ends.append(outer(lambda x: inner(lambda y: chunk._record(NAME, y * 1), x) * 1, given) * factor)
        chunk._running = False
    for end in ends:
        end.sum().backward()
    assert seen == [(PROBE_GRADIENTS + NAME, factor) for factor in MICRO_BATCHES]
    # A pass that no schedule has begun, as when a CUDA graph records: it is neither.
    further = torch.ones(4, 1, 3, dtype=torch.float64, requires_grad=True)
    assert chunk._keep(probe, further, lambda tensor: tensor) is further
    further.sum().backward()
    assert len(seen) == len(MICRO_BATCHES)


def test_a_router_that_no_pass_of_a_schedule_calls_chooses_by_itself() -> None:
    choices: Any = object.__new__(Choices)
    choices.__dict__ |= {"_replaying": True, "step": 1, "_again": defaultdict(deque)}
    assert choices.next("layers.1.moe", None)._replayed is None
