"""What happens to a model between its optimizer steps, as a word: `step-evaluate-step`, `step-resume-pp2-step`. No torch.

Nothing of it may change a number: the reference takes the steps alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.strangers import shown

LOAD, STEP, EVALUATE, OVERFLOW, SAVE, RESUME = "load", "step", "evaluate", "overflow", "save", "resume"
KINDS = {
    LOAD: "the optimizer is made of other weights; then the weights alone are loaded, and its masters refreshed; first of all",
    STEP: "forward, backward and an optimizer step, with data of its own",
    EVALUATE: "a forward pass in eval mode, without gradients, with data that no step has",
    OVERFLOW: "in fp16: the gradients of the step that follows hold an infinity, and the optimizer skips them; then the step",
    SAVE: "a checkpoint is written, and the run goes on",
    RESUME: "a checkpoint is written, everything is made anew, in another layout if one follows, and loaded from it",
}
"""Every event, and what a rank does."""


@dataclass(frozen=True)
class Event:
    """One part of a life; `layout` is where a resumed run goes on, empty for the same layout."""

    kind: str
    layout: str = ""


_STEPS = re.compile(r"step([1-9][0-9]{0,2})")


def is_life(word: str) -> bool:
    """Whether a word that follows a layout is meant as one."""
    first = word.partition("-")[0]
    return first in KINDS or _STEPS.fullmatch(first) is not None


def parse(word: str) -> tuple[Event, ...]:
    """The events of a life; none of an empty word. Raises UsageError."""
    events = tuple(_events(word.split("-"), word)) if word else ()
    if not events:
        return ()
    kinds = [event.kind for event in events]
    if LOAD in kinds[1:]:
        raise UsageError(f"life {shown(word)}: load comes first, before any step; resume loads later")
    if kinds[kinds[0] == LOAD :][:1] != [STEP] or kinds[-1] != STEP:
        raise UsageError(f"life {shown(word)}: begin and end with step; what comes behind the last step is not compared")
    if any(kind == OVERFLOW and then not in (STEP, OVERFLOW) for kind, then in itertools.pairwise(kinds)):
        raise UsageError(f"life {shown(word)}: overflow is of the gradients of a step; put it directly before one")
    if set(kinds) == {STEP}:
        raise UsageError(f"life {shown(word)} has steps alone; --steps {len(kinds)} says that")
    return events


def _events(words: list[str], life: str) -> Iterator[Event]:
    at = 0
    while at < len(words):
        kind, at = words[at], at + 1
        if many := _STEPS.fullmatch(kind):
            yield from (Event(STEP),) * int(many[1])
            continue
        if kind not in KINDS:
            raise UsageError(f"life {shown(life)}: {shown(kind)} is no part of one; join {', '.join(KINDS)} with -")
        layout = ""
        if kind == RESUME and at < len(words) and not is_life(words[at]):
            layout, at = Layout.parse(words[at]).name, at + 1
        yield Event(kind, layout)


def written(events: tuple[Event, ...]) -> str:
    """The word that `parse` reads as these events."""
    return "-".join(part for event, run in itertools.groupby(events) for part in _written(event, len(list(run))))


def _written(event: Event, times: int) -> list[str]:
    if event.kind == STEP:
        return [STEP if times == 1 else f"{STEP}{times}"]
    return [part for part in (event.kind, event.layout) if part] * times


def steps(word: str) -> int:
    """How many optimizer steps a life has."""
    return sum(event.kind == STEP for event in parse(word))


def keeps(word: str) -> str:
    """The first event that writes a checkpoint, into a folder that all ranks share; empty if there is none."""
    return next((event.kind for event in parse(word) if event.kind in (SAVE, RESUME)), "")


def on_nodes(word: str, nodes: int) -> str | None:
    """Why a life cannot be lived on so many nodes, None if it can."""
    if nodes < 2 or not (kept := keeps(word)):
        return None
    return f"its ranks write a checkpoint into one folder, and nodes share none; run it on one machine, or leave {kept} out"


def in_one_layout(word: str) -> str:
    """The same life without a change of layout."""
    return written(tuple(Event(event.kind) for event in parse(word)))


def layouts(word: str) -> tuple[Layout, ...]:
    """The further layouts of a life, in its order."""
    return tuple(Layout.parse(event.layout) for event in parse(word) if event.layout)
