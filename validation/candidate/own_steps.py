"""What an optimizer does to its own numbers: in a step by its formula, and between two steps nothing (arithmetic)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from validation.candidate import arithmetic
from validation.candidate.load import Held
from validation.candidate.optimizer import Optimizer, Share
from validation.candidate.recorder import Recorder
from validation.candidate.weights import Holding
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.optimizers import SECOND, Rule
from validation.case.schedule import Schedule
from validation.case.steps import MASTER, STEPS, VALUE
from validation.compare.precision import as_stored
from validation.reference import schedule as formulas


@dataclass(frozen=True)
class _Watched:
    """A parameter of this rank by its place among them, what it holds of the checkpoint, what is stepped of it, and what that
    was before the step. `follows` says that its moments come of steps that were judged, or that there were none.
    """

    index: int
    tensor: torch.Tensor
    parts: Sequence[Holding]
    share: Share
    was: arithmetic.Before
    follows: bool


class OwnSteps:
    """The steps of one rank's optimizer, below fp64: there the comparison with the reference has no floor to hide under."""

    def __init__(self, case: Case) -> None:
        self._wanted = case.precision != "fp64"
        self._layout = case.layout
        self._masters, self._adam = case.has_masters, case.training.adam
        self._rule, self._schedule = Rule.of(case.training), Schedule.of(case.training)
        self._watched: list[_Watched] = []
        self._left: dict[int, arithmetic.Before] = {}
        self._by_formula: set[int] = set()
        """Places of which all steps so far were judged."""
        self._step = 0
        self._recorder: Recorder | None = None

    def cut_as(self, layout: Layout) -> None:
        """The model goes on in that layout: in another one this rank has other shares, of which it knows nothing."""
        if layout != self._layout:
            self._layout, self._left, self._by_formula = layout, {}, set()

    @torch.no_grad()
    def begin(self, step: int, optimizer: Optimizer, held: Held, recorder: Recorder) -> None:
        """Remember what there is before a step, counted from 1; what the step before left must be there still."""
        self._step, self._recorder, self._watched = step, recorder, []
        followed, self._by_formula = self._by_formula, set()
        for index, (tensor, parts) in enumerate(held) if self._wanted else ():
            share = optimizer.share(tensor)
            if share is None:
                continue
            self._tell(index, parts, by_formula=False)  # until the step was taken, and judged
            if not arithmetic.known(share.place.optimizer.optimizer, share.place.own):
                continue
            was = arithmetic.before(share.place.own, share.state, self._rule)
            follows = (index in followed and index in self._left) or (step == 1 and not _has_moments(share))
            watched = _Watched(index, tensor, parts, share, was, follows)
            self._watched.append(watched)
            if index in self._left:
                for kind, off in arithmetic.changed(self._left[index], was):
                    self._say(watched, kind, off, f"not what step {step - 1} has left")
        self._left = {}

    @torch.no_grad()
    def end(self) -> None:
        """Judge the step that has been taken, while the gradients are there, and remember what it leaves."""
        with as_stored():
            for watched in self._watched:
                share, parameter = watched.share, watched.parts[0].parameter
                learning, decay = formulas.rates(self._schedule, parameter, self._step - 1)
                rates = arithmetic.Rates(self._step, learning, decay)
                own, state = share.place.own, share.state
                if watched.follows and arithmetic.judged(own, state, self._rule):
                    self._by_formula.add(watched.index)
                    self._tell(watched.index, watched.parts, by_formula=True)
                for kind, off, said in arithmetic.wrong(watched.was, own, state, self._rule, self._adam, rates):
                    self._say(watched, kind, off, said)
                self._left[watched.index] = arithmetic.before(own, state, self._rule)

    @torch.no_grad()
    def close(self) -> None:
        """See that what the last step has left is there still, as the next step would."""
        left = [(watched, self._left[watched.index]) for watched in self._watched if watched.index in self._left]
        touched = [arithmetic.touched(was, one.share.place.own, one.share.state) for one, was in left]
        for (watched, was), differs in zip(left, torch.stack(touched).tolist() if touched else (), strict=True):
            if differs:
                now = arithmetic.before(watched.share.place.own, watched.share.state, self._rule)
                for kind, off in arithmetic.changed(was, now):
                    self._say(watched, kind, off, f"not what step {self._step} has left")

    def _tell(self, index: int, parts: Sequence[Holding], *, by_formula: bool) -> None:
        """Whether this rank has judged its share of the step by the formula, and all steps before it."""
        for part in parts:
            if self._recorder is not None and SECOND in self._rule.moments:
                self._recorder.by_formula(f"{STEPS}{self._step}/{SECOND}/{part.parameter.name}", index, judged=by_formula)

    def _say(self, watched: _Watched, kind: str, off: torch.Tensor, said: str) -> None:
        whole = torch.zeros(watched.tensor.numel(), dtype=torch.bool, device=off.device)
        whole[watched.share.elements] = off
        name = kind if self._masters or kind != MASTER else VALUE
        for part in watched.parts:
            if self._recorder is not None and (count := int(part.of(whole.view(watched.tensor.shape)).count_nonzero())):
                key = f"{STEPS}{self._step}/{name}/{part.parameter.name}"
                self._recorder.problem(key, arithmetic.sentence(count, said))


def _has_moments(share: Share) -> bool:
    """Whether there is something in them before the first step, for which no step has given the reason."""
    return any(isinstance(kept, torch.Tensor) and kept.dim() > 0 and bool(kept.any()) for kept in share.state.values())
