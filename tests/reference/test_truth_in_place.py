"""A truth that stays where it was computed, as on a GPU with room for it: floors and files are those of one on the host."""

from __future__ import annotations

import gc
import hashlib
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.training import Training
from validation.reference import compute
from validation.reference.batch import make_batch
from validation.reference.checkpoint import Checkpoint
from validation.reference.models import Models
from validation.reference.steps import Steps
from validation.reference.turning import Shown

MODEL = replace(TINY.model, num_hidden_layers=2, first_k_dense_replace=1)
CASE = Case("tiny", MODEL, Layout(), "bf16", "local", "gloo", 1, 4, 2, 16)


def computed(case: Case, folder: Path, in_place: bool, said: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What is known of it, and a digest of each file; its progress goes to `said`."""
    folder.mkdir()
    checkpoint, _ = compute._weights(case, folder)
    assert isinstance(checkpoint, Checkpoint)
    batches = [make_batch(case, step) for step in range(max(1, case.training.steps))]
    facts = compute._truth_and_floor(in_place, case, checkpoint, batches, folder, said.append)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}
    return facts, files


@pytest.mark.parametrize(
    "training",
    [
        pytest.param(Training(), id="a pass alone"),
        pytest.param(Training(steps=3), id="three steps"),
        pytest.param(Training(steps=2).with_settings({"ddp.grad_reduce_in_fp32": False}), id="gradients added up in bf16"),
    ],
)
def test_it_is_the_same_as_on_the_host(training: Training, tmp_path: Path) -> None:
    """To the bit; what lies there is copied, for the model goes on with other weights."""
    case = replace(CASE, training=training)
    said = list[str]()
    facts, files = computed(case, tmp_path / "host", False, said)
    assert computed(case, tmp_path / "place", True, []) == (facts, files)
    assert ("steps.safetensors" in files) == (training.steps > 0)
    assert facts["floor"]["logits"] > 1e-4
    assert ("floor: gradients added up in bf16" in said) == case.rounds_sums


def test_what_a_run_has_left_is_gone_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU has room for one at a time, and Python looks for cycles when it likes: none is left for it to find."""
    steps, models = weakref.WeakSet[Steps](), weakref.WeakSet[torch.nn.Module]()
    made, build, add = Steps.__init__, Models.build, Shown.add
    seen = list[tuple[int, int]]()

    def init(self: Steps, *given: Any, **named: Any) -> None:
        steps.add(self)
        made(self, *given, **named)

    def built(*given: Any) -> Models:
        found = build(*given)
        models.add(found.hf)
        return found

    def added(self: Shown, *given: Any) -> None:
        add(self, *given)
        seen.append((len(steps), len(models)))

    monkeypatch.setattr(Steps, "__init__", init)
    monkeypatch.setattr(Models, "build", built)
    monkeypatch.setattr(Shown, "add", added)
    gc.collect()
    gc.disable()
    try:
        computed(replace(CASE, training=Training(steps=2)), tmp_path / "place", True, [])
        assert seen == [(1, 1)] * 5
        assert (len(steps), len(models)) == (0, 0)
    finally:
        gc.enable()
