"""The candidate's own inference: what a rank does with its model in a case of mode inference."""

from __future__ import annotations

from megatron.core.models.gpt import GPTModel

from validation.candidate.place import device
from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.case.inference import DYNAMIC
from validation.inference import update
from validation.inference.dynamic import Dynamic
from validation.inference.static import Inference, Progress
from validation.reference.checkpoint import Checkpoint
from validation.reference.store import Reference


def infer(case: Case, chunk: GPTModel, recorder: Recorder, stored: Reference, progress: Progress) -> None:
    """All phases of the case, each compared as it is computed."""
    second = Checkpoint.open(stored.updated, case.model, device=device())
    made = Dynamic if case.training.inference == DYNAMIC else Inference
    made(case, chunk, recorder, stored, progress).run(lambda: update.copied(case, chunk, second))
