"""Multi-token prediction: its checks are made under pipeline stages, too, and faults of its own are seen and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.checks.conftest import LAYERS

if TYPE_CHECKING:
    from tests.checks.conftest import Output


def test_every_part_of_the_layer_is_checked(broken: dict[str, Output]) -> None:
    """Weights, what stands around the block, the block's own parts, gradients: all right but for what was broken."""
    found = broken["mtp_embedding_not_reduced"]
    passed = [title.removeprefix("MTP 0 ") for title in found.titles("PASS") if title.startswith("MTP 0 ")]
    own = ["Embedding Norm Output", "Hidden Norm Output", "Projection Output", "Final Norm Output", "Logits", "Loss"]
    block = ["Query after RoPE", "Core Attention Output", "Router Output", "MoE Output", "Layer Output"]
    weights = ["Projection Weight", "Experts Gate Weight", "Final Norm Weight"]
    gradients = [f"{title} Gradient" for title in (*weights, *own[:-1], "Token Losses", "Key after RoPE")]
    assert {*own, *block, *weights, *gradients} <= set(passed)
    assert len(passed) == len(set(passed)) > 90


def test_the_embedding_s_copy_on_the_last_stage_is_checked(broken: dict[str, Output]) -> None:
    """Its gradient and the first stage's must be the sum of both; nothing else is wrong."""
    found = broken["mtp_embedding_not_reduced"]
    assert found.code == 1
    assert [title for title in found.titles("FAIL") if not title.startswith("Step ")] == ["Embedding Weight Gradient"]
    assert "on ranks 0, 1 differ in their bytes" in found.line("Embedding Weight Gradient")


def test_losses_that_count_at_the_wrong_positions_are_seen(broken: dict[str, Output]) -> None:
    """The token losses are right, what they add to training is not; the main model's own loss does not know of it."""
    found = broken["mtp_mask_not_rolled"]
    assert found.code == 1
    failed = found.titles("FAIL")
    assert failed[:2] == ["MTP 0 Loss", "MTP 0 Token Losses Gradient"]
    assert {"Token Losses", "Loss", "MTP 0 Token Losses", "Token Losses Gradient"} <= set(found.titles("PASS"))
    assert f"Layer {LAYERS - 1} Layer Output Gradient" in failed
    assert "First in single+mtp: FAIL: MTP 0 Loss - Max diff: " in found.text


def test_a_filler_that_loads_leave_out_is_seen(broken: dict[str, Output]) -> None:
    """In the MTP layer's expert bias and no other, once one expert more or less is above the average.

    The reference counts the filler, as megatron-core does.
    """
    found = broken["mtp_left_out_of_a_step"]
    biases = [title for title in found.titles("FAIL") if title.endswith("Router Expert Bias")]
    assert biases == ["Step 2 MTP 0 Router Expert Bias"]


def test_parameters_that_clipping_leaves_out_are_seen(broken: dict[str, Output]) -> None:
    """The norm is the first to be wrong. Balancing and mean losses of the layer are right before it, and every gradient."""
    found = broken["mtp_left_out_of_a_step"]
    failed, passed = found.titles("FAIL"), set(found.titles("PASS"))
    assert failed[0] == "Step 1 Gradient Norm"
    assert all(title.startswith("Step ") for title in failed)
    assert {"MTP 0 Load Balancing Loss", "MTP 0 Loss", "MTP 0 Router Weight Gradient"} <= passed
    assert "Step 1 MTP 0 Projection Weight First Moment" in failed
