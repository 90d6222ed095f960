"""Where the weights of a case come from, for the reference and for every rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from validation.case.case import Case
from validation.reference.checkpoint import Checkpoint
from validation.reference.seeded import SeededWeights

Weights = Checkpoint | SeededWeights
_EXPERT_BIAS = "e_score_correction_bias"


@dataclass(frozen=True)
class Precision:
    """What a model computes in, and what its weights were rounded to before: the same, or what a truth is the truth of."""

    dtype: torch.dtype
    weights: torch.dtype

    def of(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the checkpoint as the model holds it. The expert bias stays float32, as transformers loads it."""
        if name.endswith(_EXPERT_BIAS):
            return tensor.to(torch.float64 if self.dtype == torch.float64 else torch.float32)
        return tensor.to(self.weights).to(self.dtype)


def open_weights(case: Case, path: Path) -> Weights:
    """The checkpoint at `path`; layer by layer a preset's weights are made from the seed, on the device, and stand nowhere.

    Raises UsageError for a checkpoint that is no good.
    """
    if case.training.stream and case.hf_model_path is None:
        return SeededWeights(case, torch.device("cpu") if case.on_cpu else torch.device("cuda", torch.cuda.current_device()))
    return Checkpoint.open(path, case.model, case.layers)


def truth_precision(case: Case) -> str:
    """What the truth of a case is computed in.

    fp64, but layer by layer fp32 for bf16 and fp16: the experts of one layer of DeepSeek-V3 are 90 GB in fp64, and what fp32 is
    off is a few thousandths of such a floor (measured: docs/design.md, section 4).
    """
    return "fp32" if case.training.stream and case.precision in ("bf16", "fp16") else "fp64"
