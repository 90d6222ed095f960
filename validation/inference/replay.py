"""Below fp64 the routers of a model that infers go on with the truth's choice, as in training, and their own is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from validation.candidate.place import device
from validation.candidate.recorder import Recorder
from validation.candidate.replay import Choice
from validation.case.case import Case
from validation.case.inference import UPDATED
from validation.compare.precision import as_stored
from validation.reference.checkpoint import Checkpoint
from validation.reference.routing import expert_bias, experts_of
from validation.reference.store import Reference


@dataclass(frozen=True)
class Run:
    """Tokens of a step, from `start` to `stop`, that one sequence has in a row, from `position` on."""

    start: int
    stop: int
    row: int
    position: int


class Replay:
    """The truth's choices for any tokens of a case's sequences."""

    def __init__(self, case: Case, recorder: Recorder, stored: Reference) -> None:
        self._case, self._recorder, self._stored = case, recorder, stored
        self.on = case.precision != "fp64"

    def choice(self, prefix: str, layer: int, runs: Sequence[Run], tokens: int) -> Choice:
        """What the router of a layer is to go on with in a step of `tokens` tokens, with the weights of `prefix`.

        Tokens that are in no run, such as those that fill a step up, are its own.
        """
        if not self.on:
            return Choice(None)
        with as_stored():
            file, k = self._recorder.file(self._stored.routing), self._case.model.num_experts_per_tok
            found = torch.full((tokens, k), -1, dtype=torch.int64, device=device())
            for run in runs:
                places = (run.row, run.row + 1), (run.position, run.position + run.stop - run.start), (0, k)
                known = file.read(f"{prefix}{experts_of(layer)}", tuple(slice(*place) for place in places))
                found[run.start : run.stop] = known[0].to(found.device)
            return Choice(found)

    def margin(self, prefix: str, layer: int, rows: slice, positions: slice) -> torch.Tensor:
        """By how much each of these choices was made, [rows, positions]."""
        return self._recorder.file(self._stored.routing).read(f"{prefix}{layer}/margin", (rows, positions))


class Biases:
    """What the routers add to their scores to choose, with the first weights and with those of the update."""

    def __init__(self, case: Case, stored: Reference) -> None:
        folders, self._found = {"": stored.weights(case), UPDATED: stored.updated}, dict[tuple[int, str], torch.Tensor]()
        for prefix, folder in folders.items():
            checkpoint = Checkpoint.open(folder, case.model, device=device())
            for layer in case.model.moe_layers:
                self._found[layer, prefix] = expert_bias(checkpoint, layer, case.model)

    def of(self, layer: int, prefix: str) -> torch.Tensor:
        """A layer's, [experts], with the weights of phases with this prefix; all but the first have those of the update."""
        return self._found[layer, UPDATED if prefix else ""]
