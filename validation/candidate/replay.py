"""What routers choose: in the lower precisions they go on with the reference's choice, and their own is compared by its margin.

In every precision it is compared with what the router's own scores and the reference's bias choose, too: there rounding has
no say, but for that of one sum, and a bias that is a little off shows.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import torch

from validation.candidate.place import Place, device
from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.case.probes import Probe
from validation.case.steps import left_bias
from validation.compare.piece import slices
from validation.compare.precision import as_stored
from validation.reference.routing import chosen, expert_bias, experts_of, margins
from validation.reference.sources import Weights
from validation.reference.store import Reference

FLIPS = "flips/"
"""What precedes the name of a choice for the margins of those tokens that chose otherwise, zero for the others."""


BY_SCORES, BY_BIAS = "by_scores/", "by_bias/"
"""The same for tokens whose experts are not those that their own scores and the reference's bias choose, by how much the scores
would have to be off for that; and for tokens that chose by other scores than these, by how much they are."""

ULPS = 2
"""How many units in the last place of a token's largest biased score the sums that chose may be off: twice what rounding can
do. One score and its bias are off by half of one; a group's two best together by two, a quarter of which is its margin."""


class Choice:
    """One call of one router: what it chose itself, once it has, and what it is to go on with. Both are [tokens, k].

    `scores` are its own for every expert, [tokens, experts], and `biased` those that it chose by, [tokens, k]; None until they
    are seen.
    """

    def __init__(self, replayed: torch.Tensor | None, micro_batch: int | None = None) -> None:
        self._replayed, self.micro_batch = replayed, micro_batch
        self.own: torch.Tensor | None = None
        self._given: torch.Tensor | None = None
        self.scores: torch.Tensor | None = None
        self.biased: torch.Tensor | None = None

    def turned(self, rows: int, length: int) -> Choice:
        """The same for tokens that lie side by side: what was [rows, length] is [length, rows]."""
        given = self._replayed
        if given is None:
            return self
        return Choice(given.view(rows, length, -1).transpose(0, 1).flatten(0, 1), self.micro_batch)

    def seen(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores, which are kept."""
        self.scores = scores
        return scores

    def choose(self, experts: torch.Tensor, biased: torch.Tensor | None = None) -> torch.Tensor:
        """The experts to go on with; `biased` is None if nobody sees what they were chosen by."""
        self.own, self.biased, self._given = experts, None if biased is None else biased.detach(), experts
        if self._replayed is not None:
            # A layer of multi-token prediction computes positions, too, that the reference has not.
            self._given = torch.where(self._replayed < 0, experts, self._replayed)
        return self._given

    def compared(self, used: torch.Tensor) -> torch.Tensor:
        """What is compared with the reference's choice, of `used`, the map that the layer goes on with; [tokens, experts].

        It is the router's own choice if the layer uses what the router was given in its place, and else what the layer uses:
        megatron-core's own replay, for one, puts other experts there.
        """
        if self.own is None or self._given is None:
            return used
        own, given = (torch.zeros_like(used).scatter(1, experts, True) for experts in (self.own, self._given))
        return torch.where((used == given).all(-1, keepdim=True), own, used)


def off_own_scores(case: Case, choice: Choice, bias: torch.Tensor) -> dict[str, torch.Tensor]:
    """How far each token's experts are from those that the router's own scores and the reference's `bias` choose, [tokens].

    By BY_SCORES and BY_BIAS; zero where only the rounding of a sum has a say. Nothing of a router that was not seen choosing.
    """
    if choice.own is None or choice.scores is None or choice.biased is None:
        return {}
    scores = choice.scores.detach().double() + bias.to(choice.scores.device).double()
    # What a router adds the bias in, whatever its layer computes in.
    adds_in = torch.float64 if case.precision == "fp64" else torch.float32
    rounding = ULPS * torch.finfo(adds_in).eps * scores.abs().amax(-1)
    own = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, choice.own, True)
    margin = margins(scores, case.model).masked_fill((own == chosen(scores, case.model)).all(-1), 0.0)
    off = (choice.biased.double() - scores.gather(-1, choice.own)).abs().amax(-1)
    return {name: found.masked_fill(found <= rounding, 0.0) for name, found in ((BY_SCORES, margin), (BY_BIAS, off))}


class Choices:
    """The choices of one chunk's routers in a step, counted from 1; their own in fp64, isolated cases aside, and in step 0."""

    def __init__(self, case: Case, place: Place, recorder: Recorder, reference: Reference, weights: Weights) -> None:
        self._case, self._place, self._recorder, self._reference = case, place, recorder, reference
        self._weights = weights
        self._again: dict[str, deque[int]] = defaultdict(deque)
        self._replaying = case.precision != "fp64" or case.isolated
        self.step = 1

    def next(self, prefix: str, micro_batch: int | None) -> Choice:
        """The next call of the router of `layers.3.moe`; None where the backward pass runs it again.

        Where nothing is to be run again, either, no pass of the schedule's calls it: a CUDA graph warms up, or records.
        """
        if not (self._replaying and self.step) or (micro_batch is None and not self._again[prefix]):
            return Choice(None)
        if micro_batch is None:
            micro_batch = self._again[prefix].popleft()
        elif not torch.is_grad_enabled():
            self._again[prefix].append(micro_batch)
        return Choice(self._of_reference(int(prefix.split(".")[1]), micro_batch), micro_batch)

    def compare_margins(self, probe: Probe, own: torch.Tensor, micro_batch: int) -> None:
        """Report by how much the reference's choice could have been another, for each token that chose otherwise.

        `own` is the router's own choice, [sequence, batch, experts].
        """
        if not self._replaying:
            return
        with as_stored(), torch.no_grad():
            for box, part in self._place.pieces(probe, own.transpose(0, 1), micro_batch):
                reference = self._recorder.file(self._reference.probes).read(probe.name, slices(box)).to(part.device)
                margin = self._recorder.file(self._reference.routing).read(f"{probe.layer}/margin", slices(box[:2]))
                flipped = (part != reference).any(-1)
                found = torch.where(flipped, margin.to(part.device), torch.zeros((), dtype=margin.dtype, device=part.device))
                self._recorder.measure(f"{FLIPS}{probe.name}", found, box[:2], torch.zeros_like(found))

    def compare_with_scores(self, probe: Probe, choice: Choice, size: torch.Size, micro_batch: int) -> None:
        """Report the tokens that chose otherwise than by their own scores and the reference's bias, zero for the others.

        `size` is [sequence, batch, experts], of which the choice has joined the first two.
        """
        with as_stored(), torch.no_grad():
            bias = expert_bias(self._weights, probe.layer or 0, self._case.model)
            self._off(probe, probe.name, choice, bias, size, micro_batch)

    def bias_before(self, router: Any) -> torch.Tensor | None:
        """What a router is to add to its scores in a later step, [experts]; None in the first, and if it has no bias."""
        bias = getattr(router, "expert_bias", None) if self.step > 1 else None
        return None if bias is None else bias.detach().clone()

    def compare_with_bias(
        self, probe: Probe, choice: Choice, bias: torch.Tensor | None, size: torch.Size, micro_batch: int
    ) -> None:
        """The same of a later step, by the router's own `bias_before`, which is compared when the step before has left it."""
        if bias is not None:
            with as_stored(), torch.no_grad():
                left_by = left_bias(self.step - 1, probe.layer or 0)
                self._off(probe, left_by, choice, bias, size, micro_batch)

    def _off(self, probe: Probe, of: str, choice: Choice, bias: torch.Tensor, size: torch.Size, micro_batch: int) -> None:
        for name, found in off_own_scores(self._case, choice, bias).items():
            by_token = found.view(size[:2]).transpose(0, 1)
            for box, part in self._place.pieces(probe, by_token, micro_batch):
                self._recorder.measure(f"{name}{of}", part, box[:2], torch.zeros_like(part))

    def _of_reference(self, layer: int, micro_batch: int) -> torch.Tensor:
        """The reference's choice for this rank's tokens, [tokens, k]; -1 where it has none."""
        with as_stored():
            file, name = self._recorder.file(self._reference.routing), experts_of(layer, self.step)
            _, length, k = file.shape(name)
            rows, parts = slice(*self._place.batch_rows(micro_batch)), []
            for start, stop in self._place.sequence_ranges("moe.router.experts", micro_batch):
                known = file.read(name, (rows, slice(start, min(stop, length)), slice(0, k)))
                missing = known.new_full((known.shape[0], stop - max(start, min(stop, length)), k), -1)
                parts.append(torch.cat([known, missing], 1))
            return torch.cat(parts, 1).transpose(0, 1).flatten(0, 1).to(device())
