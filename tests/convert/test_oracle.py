"""Our tensors are those of mbridge, which others wrote: `pip install -r requirements/oracle.txt`."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch

from tests.convert import folders, oracle
from tests.convert.folders import MODEL, MOONLIGHT
from validation.case.model import Model
from validation.compare.piece import slices
from validation.convert.formats import open_source

ABSENT = importlib.util.find_spec("mbridge") is None
LAYOUTS = [f"tp{tp}ep{ep}etp{etp}" for tp, ep, etp in itertools.product((1, 2), repeat=3)]


@pytest.mark.skipif(ABSENT, reason="mbridge, a further oracle, is not installed (pip install -r requirements/oracle.txt)")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", [MODEL, MOONLIGHT], ids=["DeepSeek-V3", "Moonlight"])
def test_every_tensor_of_every_rank_is_mbridge_s(model: Model, layout: str, tmp_path: Path) -> None:
    """Names, merges and cuts; bit for bit."""
    mismatches, count = [], 0
    with open_source(folders.write(tmp_path / "hf", model, folders.weights(model))) as source:
        held = oracle.Held.of(source)
    for cut in oracle.cuts(held, layout):
        ours = torch.empty(cut.tensor.shape, dtype=cut.value.dtype)
        for part in cut.tensor.holdings:
            part.of(ours).copy_(held.tensors[part.parameter.name][slices(part.box)])
        count += 1
        if ours.shape != cut.value.shape or not torch.equal(ours, cut.value):
            mismatches.append((cut.tensor.name, cut.ranks))
    print(f"{layout}: {count} tensors, {len(mismatches)} mismatches")  # noqa: T201 - shown with -s
    assert mismatches == []
    assert count > 100
