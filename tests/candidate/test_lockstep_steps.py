"""What a step in lockstep holds of the truth while the candidate computes: in the last stage on a GPU as little as can be."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tests import core  # noqa: F401 - before megatron-core
from validation.candidate import lockstep
from validation.candidate.kept_steps import FORWARD
from validation.candidate.lockstep import Truth
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.training import Training
from validation.reference import ledger as ledgers
from validation.reference.ledger import Ledger

MODEL = replace(TINY.model, num_hidden_layers=2)
CASE = Case("tiny", MODEL, Layout(), "bf16", "local", "nccl", 1, 2, 1, 8, training=Training(stream=True))


@pytest.mark.parametrize(
    ("step", "where", "moved"),
    [
        (("backward", 1), "cuda", [ledgers.PARAMETER_GRADIENTS]),
        (("backward", 0), "cuda", []),
        ((FORWARD, 0), "cuda", []),
        (("backward", 1), "cpu", []),
    ],
)
def test_the_truth_makes_room_for_the_candidate(
    step: tuple[str, int], where: str, moved: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is measured from it any more, and its gradients wait on the host where both sides are largest."""
    done, seen = list[str](), list[Ledger]()
    monkeypatch.setattr(lockstep, "device", lambda: torch.device(where))
    monkeypatch.setattr(Truth, "to_host", lambda truth, kind: done.append(kind))

    def compute(stage: int, ledger: Ledger) -> None:
        ledger.floor.truth = {"final_norm": torch.ones(2)}
        seen.append(ledger)

    def candidate(stage: int, *given: Any) -> int:
        (ledger,) = seen
        assert ledger.floor.truth == {}
        done.append("candidate")
        return 7

    reference = SimpleNamespace(forward=compute, backward=compute)
    rank = SimpleNamespace(forward=candidate, backward=candidate)
    stored = SimpleNamespace(probes="a", probe_gradients="b", gradients="c", routing="d")
    kept = SimpleNamespace(put=lambda name, tensor: None, get=lambda name: torch.zeros(1))
    found = lockstep._step(CASE, step, reference, cast("Any", rank), cast("Any", stored), None, cast("Any", kept))
    assert done == [*moved, "candidate"]
    assert found["held"] == 7
