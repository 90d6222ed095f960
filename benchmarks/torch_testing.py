"""A plugin for the ranks of the study: how many logits torch.testing.assert_close would reject, beside what is measured."""

from __future__ import annotations

from typing import Any

import torch

from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.compare.piece import Box

TOLERANCES = {"fp32": (1.3e-6, 1e-5), "bf16": (1.6e-2, 1e-5), "fp16": (1e-3, 1e-5)}
"""Relative and absolute, https://docs.pytorch.org/docs/stable/testing.html#torch.testing.assert_close"""
REJECTED = "rejected by torch.testing/"
"""What precedes the name of a tensor: one element for each of its own, true where assert_close would reject it."""


def configure(case: Case, config: Any) -> None:
    """From here on the rank measures, beside its logits, which of them lie outside the defaults of the case's precision."""
    relative, absolute = TOLERANCES[case.precision]
    sound = Recorder.measure

    def measure(self: Recorder, name: str, tensor: torch.Tensor, box: Box, expected: torch.Tensor, exact: bool = False) -> None:
        sound(self, name, tensor, box, expected, exact)
        if name == "logits":
            difference = (tensor.detach().double() - expected.double()).abs()
            outside = ~(difference <= absolute + relative * expected.double().abs())
            sound(self, REJECTED + name, outside, box, torch.zeros_like(outside))

    Recorder.measure = measure  # type: ignore[method-assign]
