"""What the reference's MTP layers add to a step: mean losses, loads, balancing losses, and parameters for the optimizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.training import Training

if TYPE_CHECKING:
    from validation.reference.batch import Batch
    from validation.reference.record import Recording
    from validation.reference.steps import Steps

MODEL = replace(TINY.model, num_hidden_layers=2, num_nextn_predict_layers=2)
TRAINING = Training(steps=1, loss="mean", balancing="seq_aux_loss")
CASE = Case("tiny", MODEL, Layout(), "fp64", "local", "gloo", 1234, 4, 2, 12, training=TRAINING)
AHEAD = {2: 1, 3: 2}
"""How far each MTP layer looks ahead: as many positions of a sequence have no token to be joined with."""


@dataclass(frozen=True)
class Computed:
    """A step of the reference: what was recorded, each router's logits, and the optimizer's step that followed."""

    batch: Batch
    recording: Recording
    logits: dict[int, torch.Tensor]
    gradients: dict[str, torch.Tensor]
    before: dict[str, torch.Tensor]
    steps: Steps


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Computed:
    from validation.compare.precision import computing_in
    from validation.reference.batch import make_batch
    from validation.reference.checkpoint import Checkpoint
    from validation.reference.models import Models
    from validation.reference.mtp import gates
    from validation.reference.sources import Precision
    from validation.reference.steps import Steps
    from validation.reference.weights import save_weights

    path = Path(tmp_path_factory.mktemp("weights")) / "weights.safetensors"
    save_weights(CASE, path)
    batch, logits = make_batch(CASE), {}
    with Checkpoint.open(path, MODEL) as checkpoint, computing_in("fp64"):
        models = Models.build(CASE, checkpoint, Precision(torch.float64, torch.float64), torch.device("cpu"))
        for layer, gate in gates(models.hf, models.mtp, MODEL).items():
            gate.register_forward_hook(lambda module, given, made, layer=layer: logits.update({layer: made[0].detach()}))
        steps = Steps(models.hf, models.mtp, CASE)
        with steps.loads.counting(batch):
            recording = models.record(batch, lambda step: None)
        gradients = {name: gradient.clone() for name, gradient in models.gradients().items()}
        before = {name: checkpoint.read(name).to(torch.float64) for name in gradients}
        steps.take(1)
    return Computed(batch, recording, logits, gradients, before, steps)


def balance(logits: torch.Tensor) -> float:
    from validation.reference.balancing import sequence_balance

    return float(sequence_balance(logits, MODEL.num_experts_per_tok).mean())


@pytest.mark.parametrize("layer", AHEAD)
def test_probes_end_where_the_tokens_do(computed: Computed, layer: int) -> None:
    """In both directions, the token losses and their gradients too."""
    for kind in ("attention.output", "moe.router.logits", "moe.router.experts", "mtp.logits", "mtp.token_loss"):
        assert computed.recording.forward[f"layers.{layer}.{kind}"].shape[:2] == (4, 12 - AHEAD[layer])
    assert computed.recording.gradients[f"layers.{layer}.moe.router.weights"].shape[:2] == (4, 12 - AHEAD[layer])


@pytest.mark.parametrize("layer", AHEAD)
def test_loads_count_the_filler_of_every_sequence(computed: Computed, layer: int) -> None:
    """As megatron-core does: k experts for each position that has a token, and k for each that has none."""
    known = computed.recording.forward[f"layers.{layer}.moe.router.experts"].sum((0, 1))
    fillers = computed.steps.loads.counts[layer] - known
    assert (fillers >= 0).all()
    assert fillers.sum() == 4 * AHEAD[layer] * MODEL.num_experts_per_tok


@pytest.mark.parametrize("layer", AHEAD)
def test_a_load_moves_the_expert_bias_of_an_mtp_layer(computed: Computed, layer: int) -> None:
    bias = f"model.layers.{layer}.mlp.gate.e_score_correction_bias"
    counts = computed.steps.loads.counts[layer].double()
    moved = computed.steps._gates[layer].e_score_correction_bias
    assert torch.equal(computed.steps.kept[f"1/value/{bias}"], moved.to(torch.float32))
    assert counts.unique().numel() > 1


@pytest.mark.parametrize("layer", AHEAD)
def test_balancing_losses_count_the_filler(computed: Computed, layer: int) -> None:
    """Over all positions of a sequence, not over those alone that have a token."""
    logits = computed.logits[layer].view(4, 12, -1)
    known = computed.recording.forward[f"layers.{layer}.moe.router.logits"]
    torch.testing.assert_close(logits[:, : 12 - AHEAD[layer]], known)
    found = float(computed.recording.forward[f"layers.{layer}.moe.balancing"])
    assert found == pytest.approx(balance(logits), rel=1e-14)
    assert found != pytest.approx(balance(known), rel=1e-6)


def test_the_filler_is_token_0(computed: Computed) -> None:
    """Behind the end there is no token; megatron-core's roll_tensor leaves a 0."""
    from validation.reference.mtp import _ahead

    moved = _ahead(computed.batch, 2)
    assert torch.equal(moved.tokens[:, :10], computed.batch.tokens[:, 2:])
    assert not moved.tokens[:, 10:].any()
    assert not moved.labels[:, 10:].any()
    assert not moved.mask[:, 10:].any()


@pytest.mark.parametrize("layer", AHEAD)
def test_a_mean_loss_is_over_each_micro_batch_s_targets(computed: Computed, layer: int) -> None:
    """Two micro-batches of two sequences: lambda / D, divided by a micro-batch's targets that are left, and their mean."""
    mask = computed.batch.mask[:, AHEAD[layer] :]
    left = mask.reshape(2, -1).sum(1).repeat_interleave(2)[:, None]
    weights = TRAINING.mtp_scale / 2 * mask / left / 2
    torch.testing.assert_close(computed.recording.gradients[f"layers.{layer}.mtp.token_loss"], weights.double())
    expected = (computed.recording.forward[f"layers.{layer}.mtp.token_loss"] * weights).sum()
    torch.testing.assert_close(computed.recording.forward[f"layers.{layer}.mtp.loss"], expected)


def test_the_gradient_norm_counts_mtp_layers(computed: Computed) -> None:
    """The root of the sum of all squares. Without the MTP layers it is another number."""

    def norm(names: Any) -> float:
        return float(torch.stack([computed.gradients[name].square().sum() for name in names]).sum().sqrt())

    found = float(computed.steps.kept["1/gradient_norm"])
    assert found == pytest.approx(norm(computed.gradients), rel=1e-12)
    main = [name for name in computed.gradients if not name.startswith(("model.layers.2.", "model.layers.3."))]
    assert found != pytest.approx(norm(main), rel=1e-3)


@pytest.mark.parametrize(("name", "decay"), [("eh_proj.weight", 0.1), ("enorm.weight", 0.0), ("shared_head.norm.weight", 0.0)])
def test_an_optimizer_step_moves_the_parameters_of_an_mtp_layer(computed: Computed, name: str, decay: float) -> None:
    """AdamW with the clipped gradient, written out: the first step's moments, and norm weights do not decay."""
    whole, adam = f"model.layers.3.{name}", TRAINING.adam
    assert decay in (0.0, adam.weight_decay)
    gradient = computed.gradients[whole] * adam.clip_norm / (computed.steps.kept["1/gradient_norm"] + 1e-6)
    torch.testing.assert_close(computed.steps.kept[f"1/exp_avg/{whole}"], (1 - adam.beta1) * gradient)
    torch.testing.assert_close(computed.steps.kept[f"1/exp_avg_sq/{whole}"], (1 - adam.beta2) * gradient.square())
    moved = computed.before[whole] * (1 - adam.learning_rate * decay)
    moved -= adam.learning_rate * gradient / (gradient.abs() + adam.epsilon)
    torch.testing.assert_close(computed.steps.kept[f"1/value/{whole}"], moved)
