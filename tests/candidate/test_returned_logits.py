"""The logits that megatron-core's inference hands out are compared, and not only those of its output layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import core  # noqa: F401
from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.case.inference import PREFILL, inferred, prompt_length
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.training import Training
from validation.inference import static
from validation.inference.static import Inference
from validation.inference.watch import Now, Watch

CASE = Case("tiny", TINY.model, Layout(), "fp64", "local", "gloo", 0, 4, 2, 16, training=Training(inference="static"))
PROMPT, VOCABULARY = prompt_length(CASE), CASE.model.vocab_size


class Logits:
    """HuggingFace's: each is the number of its sequence."""

    def read(self, name: str, index: Sequence[slice] | None = None) -> torch.Tensor:
        """Those of some sequences and positions."""
        whole = torch.arange(CASE.batch_size, dtype=torch.float64)[:, None, None].expand(inferred(CASE)[name].probe.shape)
        return whole[tuple(index or ())]


def watched() -> Watch:
    """A watch of a model that has nothing to hook."""
    watch = Watch.__new__(Watch)
    recorder = Recorder(0)
    recorder.serve(Path("probes"), Logits())  # type: ignore[arg-type]
    stored = SimpleNamespace(probes=Path("probes"))
    vars(watch).update(_case=CASE, _recorder=recorder, _stored=stored, _known=inferred(CASE), now=Now())
    return watch


class Wrapper:
    """megatron-core's with a pipeline, which takes half of the sequences at a time, and joins what it makes by `joined`."""

    def __init__(self, chunk: Any, context: Any, joined: Any) -> None:
        self.chunk, self.context, self.joined = chunk, context, joined

    def prep_model_for_inference(self) -> None:
        """Nothing."""

    def prep_inference_input(self, tokens: torch.Tensor) -> torch.Tensor:
        """The tokens."""
        return tokens

    def get_batch_for_context_window(self, tokens: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Those of some positions."""
        return tokens[:, start:stop]

    def run_one_forward_step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of every position, with a vocabulary that is padded."""
        for part in tokens.chunk(2):
            self.chunk(part)
            self.context.batch_size_offset += len(part)
        self.context.batch_size_offset = 0
        whole = torch.arange(len(tokens), dtype=torch.float64)[:, None, None].expand(*tokens.shape, VOCABULARY + 3)
        return self.joined(whole)


@pytest.mark.parametrize(
    ("joined", "error"),
    [
        pytest.param(lambda logits: logits, 0.0, id="right"),
        pytest.param(lambda logits: torch.cat(logits.chunk(2)[::-1]), 2.0, id="halves in the wrong order"),
        pytest.param(lambda logits: logits.roll(1, 0), 3.0, id="another sequence"),
    ],
)
def test_what_the_wrapper_returns_is_compared_for_every_sequence(
    joined: Any, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part of them the pipeline took last: what it joins wrongly no hook of the output layer sees."""
    chunk, case = torch.nn.Identity(), CASE
    monkeypatch.setattr(static, "wrapped", lambda kind, case, chunk, context, at_once: Wrapper(chunk, context, joined))
    inference = Inference.__new__(Inference)
    vars(inference).update(_case=case, _chunk=chunk, _watch=watched(), _first=0)
    tokens = torch.zeros(case.batch_size, case.seq_length, dtype=torch.int64)
    with inference._following(tokens, lambda: PREFILL) as (_, forward):
        forward(0, PROMPT)
    ((name, (piece,)),) = inference._watch._recorder.pieces.items()
    assert (name, piece.box) == ("prefill/logits", ((0, case.batch_size), (0, PROMPT), (0, VOCABULARY)))
    assert piece.difference.max_abs == error


def test_a_stage_without_logits_has_nothing_to_compare() -> None:
    watch = watched()
    watch.now = replace(watch.now, phase=PREFILL)
    watch.returned(None)
    assert watch._recorder.pieces == {}
