"""The reference of multi-token prediction: transformers' layers, the true tokens, and the loss of the DeepSeek-V3 report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.training import Training

if TYPE_CHECKING:
    from validation.reference.batch import Batch
    from validation.reference.record import Recording

MODEL = replace(TINY.model, num_hidden_layers=2, num_nextn_predict_layers=2)
CASE = Case("tiny", MODEL, Layout(), "fp64", "local", "gloo", 1234, 2, 2, 12, training=Training(mtp_loss="report"))
"""Whatever definition the installed megatron-core has."""
SCALE = CASE.training.mtp_scale


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> tuple[Batch, Recording]:
    """The batch and everything recorded of it."""
    return recorded(CASE, tmp_path_factory)


def recorded(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[Batch, Recording]:
    """The batch of a case and everything recorded of it."""
    from validation.compare.precision import computing_in
    from validation.reference import model, mtp
    from validation.reference.batch import make_batch
    from validation.reference.checkpoint import Checkpoint
    from validation.reference.record import record_step
    from validation.reference.sources import Precision
    from validation.reference.weights import save_weights

    path = Path(tmp_path_factory.mktemp("weights")) / "weights.safetensors"
    save_weights(case, path)
    batch, device = make_batch(case), torch.device("cpu")
    with Checkpoint.open(path, MODEL) as checkpoint, computing_in("fp64"):
        double = Precision(torch.float64, torch.float64)
        hf = model.build(MODEL, checkpoint, double, device)
        layers = mtp.build(hf, MODEL, checkpoint, double, device)
        assert layers is not None
        recording = record_step(
            hf,
            case,
            batch,
            lambda step: None,
            lambda hidden, recording: mtp.record(hf, layers, case, batch, hidden, recording),
        )
    return batch, recording


@pytest.mark.parametrize("layer", [2, 3])
def test_the_loss_is_the_report_s(step: tuple[Batch, Recording], layer: int) -> None:
    """The sum over the targets that are left and count, divided by how many count in the main loss, times lambda / D."""
    batch, recording = step
    ahead = layer - 1
    logits = recording.forward[f"layers.{layer}.mtp.logits"]
    # The label of a position is the next token: what a layer predicts stands `ahead` labels further on.
    targets, counts = batch.labels[:, ahead:], batch.mask[:, ahead:]
    assert logits.shape[1] == 12 - ahead == targets.shape[1]
    losses = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(recording.forward[f"layers.{layer}.mtp.token_loss"], losses)
    expected = SCALE / 2 * losses[counts].sum() / batch.mask.sum()
    torch.testing.assert_close(recording.forward[f"layers.{layer}.mtp.loss"], expected)
    weights = SCALE / 2 * counts / batch.mask.sum()
    torch.testing.assert_close(recording.gradients[f"layers.{layer}.mtp.token_loss"], weights.double())


def test_by_targets_each_micro_batch_has_its_own_weight(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its tokens in the main loss by its targets in this layer, which differ between the two sequences here."""
    case = replace(CASE, micro_batch_size=1, training=Training(mtp_loss="targets"))
    batch, recording = recorded(case, tmp_path_factory)
    for layer, ahead in ((2, 1), (3, 2)):
        counts, tokens = batch.mask[:, ahead:].sum(1), batch.mask.sum(1)
        assert (tokens[0] / counts[0]).item() != pytest.approx((tokens[1] / counts[1]).item())
        weights = SCALE / 2 * batch.mask[:, ahead:] * (tokens / counts)[:, None] / batch.mask.sum()
        torch.testing.assert_close(recording.gradients[f"layers.{layer}.mtp.token_loss"], weights.double())
        losses = recording.forward[f"layers.{layer}.mtp.token_loss"]
        torch.testing.assert_close(recording.forward[f"layers.{layer}.mtp.loss"], (losses * weights).sum())


def test_each_layer_takes_the_main_model_s_embedding_of_the_token_ahead(step: tuple[Batch, Recording]) -> None:
    """The true token, not one that was drafted; the main model has embedded it one position later."""
    _, recording = step
    embedded = recording.forward["embedding"]
    for layer, ahead in ((2, 1), (3, 2)):
        assert torch.equal(recording.forward[f"layers.{layer}.mtp.embedding"], embedded[:, ahead:])
