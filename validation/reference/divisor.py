"""What the loss of an MTP layer is divided by: the one thing of the reference that depends on the megatron-core under test.

Releases differ in what they say that they compute (docs/findings/mtp-loss-normalisation.md). `--mtp-loss` names one definition.
"""

from __future__ import annotations

from validation.case.case import Case
from validation.case.mtp import TARGETS, divisor
from validation.machine import version


def definition(case: Case) -> str:
    """REPORT or TARGETS (validation.case.mtp), in this case and with the megatron-core that its ranks run."""
    return divisor(case.training, version("megatron-core"))


def by_targets(case: Case) -> bool:
    """Whether the case has MTP layers, and divides their losses by the targets that each has left."""
    return bool(case.model.mtp_layers) and definition(case) == TARGETS
