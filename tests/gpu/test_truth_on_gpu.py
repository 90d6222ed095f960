"""A truth that stays on a GPU: its floors are those of one that goes to the host, as one does for which there is no room."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.conftest import needs_gpu
from tests.reference.conftest import switches_put_back
from tests.reference.test_truth_in_place import CASE
from validation.case.training import Training
from validation.reference import compute
from validation.reference.store import Reference

pytestmark = [pytest.mark.gpu, needs_gpu]
__all__ = ["switches_put_back"]


def computed(home: Path) -> Reference:
    """A reference with two steps, by the way of the process that computes references."""
    case = replace(CASE, transport="staged", training=Training(steps=2))
    return compute.compute(case, home, torch.device("cuda", 0), lambda said: None)


def floors(reference: Reference) -> dict[str, float]:
    """By name."""
    found: dict[str, float] = reference.facts()["floor"]
    return found


def test_floors_are_those_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the order in which squares are added up."""
    found = list[dict[str, float]]()
    for stays in (True, False):
        monkeypatch.setattr(compute, "stays_on_card", lambda case, free, stays=stays: stays)
        found.append(floors(computed(tmp_path / str(stays))))
    assert found[0].keys() == found[1].keys()
    assert max(found[0].values()) > 1e-3
    assert {name: error for name, error in found[0].items() if error != pytest.approx(found[1][name], rel=1e-6)} == {}


def test_without_room_the_truth_goes_to_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that was free when it was asked about may be another process's a second later."""
    where, compared = list[bool](), compute._compared_where

    def full(in_place: bool, *given: Any) -> dict[str, Any]:
        where.append(in_place)
        if in_place:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compared(in_place, *given)

    monkeypatch.setattr(compute, "_compared_where", full)
    assert floors(computed(tmp_path))
    assert where == [True, False]
