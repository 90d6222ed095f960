"""A truth that stays on a GPU: its floors are those of one that goes to the host."""

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
from validation.reference import compute, store
from validation.reference.turning import Shown
from validation.run.references import ReferenceProcess
from validation.run.report import STAYS, RankReport

pytestmark = [pytest.mark.gpu, needs_gpu]
__all__ = ["switches_put_back"]

STEPS = replace(CASE, transport="staged", training=Training(steps=2))


def test_floors_are_those_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the order in which squares are added up. Each run of the floor is compared where the truth is."""
    floors, places = list[dict[str, float]](), list[set[str]]()
    add = Shown.add

    def added(self: Shown, kept: dict[str, torch.Tensor], *given: Any) -> None:
        places[-1] |= {tensor.device.type for key, tensor in {**kept, **self.kept}.items() if "/exp_avg/" in key}
        add(self, kept, *given)

    monkeypatch.setattr(Shown, "add", added)
    for stays in (True, False):
        places.append(set())
        found = compute.compute(STEPS, tmp_path / str(stays), torch.device("cuda", 0), lambda said: None, stays)
        floors.append(found.facts()["floor"])
    assert places == [{"cuda"}, {"cpu"}]
    assert floors[0].keys() == floors[1].keys()
    assert max(floors[0].values()) > 1e-3
    assert {name: error for name, error in floors[0].items() if error != pytest.approx(floors[1][name], rel=1e-6)} == {}


@pytest.mark.parametrize("on_host", [False, True])
def test_the_process_of_references_says_whether_it_stays(
    on_host: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that another one is asked to take the way over the host if there was no room in the end."""
    monkeypatch.setenv("PLUMBLINE_TRANSPORT", "staged")
    process, left = ReferenceProcess(), tmp_path / "left"
    left.mkdir()
    try:
        process.compute(STEPS, tmp_path, left, 600.0, lambda step: None, on_host)
    finally:
        process.close()
    assert RankReport(left, 0).path(STAYS).exists() == (not on_host)
    assert store.find(STEPS, tmp_path) is not None
