"""What a comparison of log-probabilities is told as: lines, one sentence on which side is wrong, JUnit, JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ci import junit
from validation.case.document import number
from validation.case.plural import many
from validation.case.suggestions import join
from validation.rollout.dump import DECODE, FIRST, PREFILL
from validation.rollout.judge import ENGINE, ERROR, FAIL, MEGATRON, PASS, TRAINER, TRUTH, Pair, Place, Verdict
from validation.rollout.routes import Routed

COMPONENT = "logprobs"
_LOOK = {
    (PREFILL,): "look at what the prefill alone does: chunks, prefix reuse, the positions of the prompt",
    (FIRST,): "look at the step from prefill to decode: the first slot of the cache, its length",
    (DECODE,): "look at the engine's cache and at its decode kernels",
    (FIRST, DECODE): "look at the engine's cache and at its decode kernels",
    (PREFILL, FIRST): "look at how short inputs are computed",
}
_ALL = "look at the weights that it was given, its router, its rotary positions"


@dataclass(frozen=True)
class Told:
    """Everything that was compared, and what explains each side that is wrong, by its name."""

    pairs: tuple[Pair, ...]
    routes: tuple[Routed, ...]
    causes: Mapping[str, str]

    @property
    def failed(self) -> int:
        """How many checks fail or cannot be decided."""
        return sum(one.status != PASS for one in self.checks)

    @property
    def checks(self) -> tuple[Verdict | Routed, ...]:
        """All of them, in the order in which they are shown."""
        return (*(verdict for pair in self.pairs for verdict in pair.verdicts), *self.routes)


def lines(told: Told) -> Iterator[str]:
    """A line for each check under a heading for each pair, and the customary figures."""
    for pair in told.pairs:
        yield f"--- {pair.side[:1].upper()}{pair.side[1:]} against {pair.other} ---"
        yield from (line(verdict) for verdict in pair.verdicts)
    if told.routes:
        yield "--- Experts that the engine chose ---"
        yield from (one.line for one in told.routes)
    yield "--- Customary figures, of all tokens of a kind ---"
    for pair in told.pairs:
        for one in pair.verdicts:
            said = one.figures
            yield (
                f"{pair.side} - {pair.other}, {one.kind}: mean |d log p| {said.mean_abs:.3g}, mean exp|d log p| "
                f"{said.mean_exp:.6g}, KL k1 {said.k1:.3g}, k3 {said.k3:.3g}"
            )


def line(one: Verdict) -> str:
    """`FAIL: Engine Against HuggingFace, Decode - rms 0.31 of at most 0.02, largest 1.2 at ...`."""
    said = one.figures
    numbers = f"rms {said.rms:.2e}{_limit(one)}, largest {said.largest:.2e} ({_tokens(said.count)})"
    tail = f"; {_places(one.places)}" if one.places else f"; {one.reason}" if one.status != PASS else ""
    return f"{one.status.upper()}: {one.title} - {numbers}{tail}"


def _limit(one: Verdict) -> str:
    return f" of at most {one.limit:.2e}" if one.limit else ""


def _tokens(count: int) -> str:
    return f"{count} token{'' if count == 1 else 's'}"


def _places(places: Sequence[Place]) -> str:
    shown = [_place(place) for place in places[:3]]
    more = len(places) - len(shown)
    return "; ".join([*shown, *([f"and in {many(more, 'more sequence')}"] if more else [])])


def _place(place: Place) -> str:
    if place.wrong == 1:
        return f"wrong at position {place.first} of sequence {place.sequence}"
    if place.wrong == place.behind:
        return f"wrong from position {place.first} of sequence {place.sequence} on ({_tokens(place.wrong)})"
    word = "mostly wrong" if place.throughout else "wrong"
    return (
        f"{word} from position {place.first} of sequence {place.sequence} on ({place.wrong} of {_tokens(place.behind)})"
        if place.throughout
        else f"wrong at {many(place.wrong, 'position')} of sequence {place.sequence}, the first is {place.first}"
    )


def sentences(told: Told) -> Iterator[str]:
    """What a reader is to know: what is wrong, what is not, and where to look."""
    against = {pair.side: pair for pair in told.pairs if pair.other == TRUTH}
    bad = [pair for pair in against.values() if pair.failing]
    routed = [one for one in told.routes if one.status == FAIL]
    for pair in bad:
        yield _of_side(pair, told.causes.get(pair.side, ""))
    if routed:
        yield _of_routes(routed)
    yield from _of_the_others(told, against, bad, bool(routed))


def _of_side(pair: Pair, cause: str) -> str:
    kinds = tuple(verdict.kind for verdict in pair.failing)
    right = [verdict.kind for verdict in pair.verdicts if verdict.status == PASS]
    name = "The engine" if pair.side == ENGINE else "The trainer" if pair.side == TRAINER else pair.side
    what = "log-probabilities" if len(kinds) == len(pair.verdicts) else f"{join(list(kinds))} tokens"
    first = min((place for verdict in pair.failing for place in verdict.places), key=_order, default=None)
    where = (
        f" from position {first.first} of sequence {first.sequence} on"
        if first is not None
        else ", though no single token stands out"
    )
    agrees = f"; its {join(right)} tokens agree with {TRUTH}" if right else ""
    advice = cause or (_LOOK.get(kinds, _ALL) if right and pair.side == ENGINE else _ALL)
    return f"{_possessive(name)} {what} are wrong{where}{agrees}: {advice}."


def _possessive(name: str) -> str:
    return f"{name}'s"


def _order(place: Place) -> tuple[int, int]:
    return place.sequence, place.first


def _of_routes(routed: Sequence[Routed]) -> str:
    first = routed[0]
    layers = "layer" if len(routed) == 1 else f"{many(len(routed), 'layer')}, the first is layer"
    tail = f": {first.cause}" if first.cause else ""
    return f"The engine's tokens go to other experts than {TRUTH}'s by more than rounding, in {layers} {first.layer}{tail}."


def _of_the_others(told: Told, against: Mapping[str, Pair], bad: Sequence[Pair], routes: bool) -> Iterator[str]:
    """The sides that agree, and those about which nothing is known."""
    names = {ENGINE: "the engine", TRAINER: "the trainer", MEGATRON: MEGATRON}
    good = [side for side, pair in against.items() if not pair.failing and not pair.undecided]
    wrong = [pair.side for pair in bad]
    if good:
        agree = " and ".join(names[side] for side in good)
        said = f"{agree} agree{'' if len(good) > 1 else 's'} with {TRUTH}"
        blamed = f": the error is in {' and '.join(names[side] for side in wrong)}" if wrong else ""
        yield f"{said[:1].upper()}{said[1:]}{blamed}."
    if len(wrong) > 1:
        equal = [pair for pair in told.pairs if {pair.side, pair.other} <= set(wrong) and not pair.failing]
        alike = "in the same way: is the folder that of the weights that they ran?" if equal else "each in its own way."
        yield f"Several sides differ from {TRUTH}, {alike}"
    for side, pair in against.items():
        if pair.undecided and not pair.failing:
            open_ = [verdict for verdict in pair.verdicts if verdict.status == ERROR]
            kinds = join([verdict.kind for verdict in open_])
            yield f"Nothing is decided about the {kinds} tokens of {names[side]}: {open_[0].reason}."


# JUnit and JSON


def junit_checks(told: Told) -> tuple[junit.Check, ...]:
    """A testcase for each check."""
    said = "\n".join(sentences(told))
    return tuple(
        junit.Check(
            component=COMPONENT,
            name=one.title,
            status=one.status,
            message="" if one.status == PASS else _line(one),
            details=_line(one) if one.status == PASS else f"{_line(one)}\n{said}",
            properties=_properties(one),
            failure=one.failure,
        )
        for one in told.checks
    )


def _line(one: Verdict | Routed) -> str:
    return line(one) if isinstance(one, Verdict) else one.line


def _properties(one: Verdict | Routed) -> dict[str, str]:
    if isinstance(one, Routed):
        return {"tokens": str(one.tokens), "flips": str(one.flips), "near_ties": str(one.near_ties)}
    said = one.figures
    numbers = {
        "max_diff": said.largest,
        "avg_diff": said.mean_abs,
        "rms": said.rms,
        "tolerance": one.limit,
        "mean_exp": said.mean_exp,
        "k1": said.k1,
        "k3": said.k3,
    }
    return {"tokens": str(said.count), **{name: repr(value) for name, value in numbers.items()}}


def document(told: Told) -> dict[str, Any]:
    """What `--format json` has of it (docs/json.md)."""
    return {"says": list(sentences(told)), "logprobs": [_said(one) for one in told.checks]}


def _said(one: Verdict | Routed) -> dict[str, Any]:
    found: dict[str, Any] = {"title": one.title, "status": one.status, "message": _line(one)}
    if isinstance(one, Routed):
        return {**found, "tokens": one.tokens, "flips": one.flips, "near_ties": one.near_ties}
    names = ("rms", "largest", "mean_abs", "mean_exp", "k1", "k3")
    numbers = {name: number(getattr(one.figures, name)) for name in names}
    places = [{"sequence": place.sequence, "position": place.first, "wrong": place.wrong} for place in one.places]
    return {**found, "tokens": one.figures.count, **numbers, "limit": number(one.limit), "places": places}
