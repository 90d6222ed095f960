"""HuggingFace's model layer by layer (`--stream`): one layer is held, however many there are and however long the file is."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.folder import model_from_folder
from validation.compare.precision import DTYPES
from validation.reference.as_read import check
from validation.reference.checkpoint import Checkpoint, verify
from validation.reference.floor import Variant
from validation.reference.kept import InFiles
from validation.reference.routing import Routing, expert_bias
from validation.reference.sources import Precision
from validation.reference.stream import Run, Side, holding
from validation.rollout.dump import Said
from validation.rollout.truth import HuggingFace, Routers, Seen, batch_of, without_mtp
from validation.run.options import parsed

_TOGETHER = 4 << 30
"""Bytes of hidden states, in files, of the sequences that pass a layer before the next one is read."""


@dataclass(frozen=True, kw_only=True)
class Streamed(HuggingFace):
    """The same, with a layer of its weights at a time. A pass over the sequences reads the folder once, if they are few."""

    case: Case
    side: Side
    weights: Checkpoint

    @classmethod
    def opened(cls, folder: Path, precision: str, weights: str, device: torch.device) -> Streamed:
        """The model in `precision`, its weights rounded to that of `weights` first. Raises UsageError for a bad folder."""
        model = without_mtp(model_from_folder(folder))
        if model.tie_word_embeddings:
            raise UsageError(f"{folder} has one matrix for embedding and head, which lie in two layers; leave out --stream")
        check(model, folder)
        checkpoint = Checkpoint.open(folder, model)
        verify(checkpoint)
        case = _case(folder, weights)
        side = Side(case, precision, Precision(DTYPES[precision], DTYPES[weights]), device)
        biases = {layer: expert_bias(checkpoint, layer, model) for layer in model.moe_layers}
        return cls(model, side.hf, precision, biases, device, case=case, side=side, weights=checkpoint)

    @torch.no_grad()
    def hidden(
        self,
        sequences: Sequence[Said],
        variant: Variant | None = None,
        routings: Sequence[Routing | None] = (),
        seen: Sequence[Routers] = (),
    ) -> Iterator[torch.Tensor]:
        """As HuggingFace.hidden. Until the next sequence is asked for, the layer with the output head is held."""
        for first, behind in _groups(sequences, self.model.hidden_size * DTYPES[self.precision].itemsize):
            recordings = [
                Seen(routings[number] if routings else None, seen[number] if seen else Routers())
                for number in range(first, behind)
            ]
            yield from self._through(sequences[first:behind], variant, recordings)

    def _through(
        self, sequences: Sequence[Said], variant: Variant | None, recordings: Sequence[Seen]
    ) -> Iterator[torch.Tensor]:
        """All layers over some sequences."""
        # What is there before the first layer is not looked at again after every layer.
        gc.freeze()
        with ExitStack() as stack:
            stack.callback(gc.unfreeze)
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="plumbline-"))
            kept = InFiles(Path(place) / "hidden", self.device)
            for stage in self.case.model.blocks:
                with holding(self.case, self.weights, [self.side], stage, self.device) as experts:
                    for number, (one, recording) in enumerate(zip(sequences, recordings, strict=True)):
                        run = Run(self.case, self.side, batch_of(one, self.device), kept, str(number), variant, 1.0)
                        with self.side.lending(stage, experts, variant):
                            run.forward(stage, {}, recording)
                        kept.forget(f"{number}-{stage}")
                        if stage == self.case.model.blocks[-1]:
                            yield kept.get(f"{number}-{stage + 1}")[0]
                            kept.forget(f"{number}-{stage + 1}")


def _groups(sequences: Sequence[Said], size: int) -> Iterator[tuple[int, int]]:
    """Sequences by the first and the one behind the last, as many as lie in files together; `size` is a position's bytes."""
    first, held = 0, 0
    for number, one in enumerate(sequences):
        if held and held + size * len(one.tokens) > _TOGETHER:
            yield first, number
            first, held = number, 0
        held += size * len(one.tokens)
    if held:
        yield first, len(sequences)


def _case(folder: Path, weights: str) -> Case:
    """The model of the folder, its weights in a precision, as a case."""
    words = ["--hf-model-path", str(folder), "--layouts", "single", "--precision", weights, "--steps", "0"]
    case = parsed(words).cases[0]
    return replace(case, model=without_mtp(case.model))
