"""Multi-token prediction (MTP): a layer that predicts the token after the next one, from both what the model made of a position
and the next token itself.

Its loss, for layer k of D (DeepSeek-V3 report, section 2.2), over a sequence of T tokens:

    L_k = -1/T * (sum over i = k+2 .. T+1 of log P_k(t_i)),    added to the main loss:    lambda / D * (L_1 + .. + L_D)

There are T - k terms and the sum is divided by T, as the main loss is: each target weighs lambda / D of what it weighs there.
Where a mask leaves targets out, T is the number of targets that the main loss counts, and a target that counts there counts
here. With `--loss mean`, T is that of each micro-batch. That is REPORT. TARGETS divides by the number of targets that the layer
has left, micro-batch by micro-batch (docs/findings/mtp-loss-normalisation.md).
"""

from __future__ import annotations

from collections.abc import Callable

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from validation.case.case import Case
from validation.case.training import Training

REPORT, TARGETS = "report", "targets"
_BY_TARGETS = SpecifierSet(">=0.17", prereleases=True)
"""The versions of megatron-core that divide by targets with calculate_per_token_loss (Megatron-LM #3159).

Without it, as a mean of means, every version does.
"""


def divisor(training: Training, version: str) -> str:
    """What the loss of an MTP layer is divided by, REPORT or TARGETS: as asked for, or as this version of megatron-core does.

    `version` may be any text; one that is no version number, such as `absent`, divides a loss per token as the report does.
    """
    if training.mtp_loss != "version":
        return training.mtp_loss
    if training.loss == "mean":
        return TARGETS
    try:
        return TARGETS if Version(version) in _BY_TARGETS else REPORT
    except InvalidVersion:
        return REPORT


def its_divisor_has_a_layer(case: Case) -> str | None:
    """What says how an MTP loss is divided says nothing of a model without one."""
    said = case.training.mtp_loss
    if said == "version" or case.model.mtp_layers:
        return None
    return f"--mtp-loss {said} is about MTP layers and {case.arrangement} has none; {case.layout.name}+mtp+mtp-{said} has one"


def the_last_layer_has_experts(case: Case) -> str | None:
    """megatron-core makes the MTP layer's block like the model's last one; HuggingFace's always has experts."""
    model = case.model
    if not model.mtp_layers or model.moe_layers:
        return None
    return (
        "Megatron-Core makes the MTP layer like the model's last layer, which is dense here, and HuggingFace gives it experts; "
        f"first_k_dense_replace up to {model.num_hidden_layers - 1} works"
    )


def every_layer_has_a_target(case: Case) -> str | None:
    """A sequence is longer than what the MTP layers look ahead."""
    layers = case.model.num_nextn_predict_layers
    if not layers or case.seq_length > layers + 1:
        return None
    return f"seq_length {case.seq_length} leaves the last MTP layer nothing to predict; --seq-length {8 * (layers + 1)} works"


RULES: tuple[Callable[[Case], str | None], ...] = (
    its_divisor_has_a_layer,
    the_last_layer_has_experts,
    every_layer_has_a_target,
)
