"""The case that would decide between two causes: a layout that the preset can have, with one cause and without the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ci.diagnosis.causes import Cause
from ci.diagnosis.evidence import Seen
from ci.diagnosis.traits import FEWER_BITS, traits
from ci.diagnosis.words import noun
from ci.junit import Check
from validation.case.arrangement import cut, parse
from validation.case.case import DEFAULT_SEED, Case
from validation.case.preflight import RULES
from validation.case.preset import PRESETS
from validation.case.training import Training

_LAYOUTS = ("single", "tp2", "dp2", "cp2", "pp2", "ep2", "tp2etp1", "tp2nosp", "ep2etp2", "pp2vpp2", "dp4", "tp2ep2", "tp2dp2")
_SAID = re.compile(
    r"To decide, run (?P<arrangement>\S+)(?: in (?P<precision>\w+))?(?: with --implementation (?P<implementation>\S+))?: "
)
_FUSED, _UNFUSED = ("te", "te-fused", "te-flash"), "te-unfused"
"""Implementations whose core attention is a kernel of a library, and the one whose is not."""
_OF_ATTENTION = re.compile(r"Core Attention Output$|(?:Query|Key|Value)(?: after RoPE)? Gradient$")
"""What core attention computes in its forward and its backward pass."""
_NUMBER = re.compile("[0-9]{1,6}")


def deciding(best: Cause, rivals: Sequence[Cause], cases: Sequence[Seen]) -> str:
    """A sentence with the smallest such case; empty if there is none, or nothing to decide."""
    for rival in rivals:
        if any(trait.name == FEWER_BITS for trait in (*best.traits, *rival.traits)):
            continue  # no case has it, and none has it not
        for arrangement, precision in _candidates(cases):
            told = traits({**cases[0].suite.properties, "arrangement": arrangement, "precision": precision})
            if told is None or _was_run(arrangement, precision, cases):
                continue
            here, there = (all(trait.name in told for trait in cause.traits) for cause in (best, rival))
            if here != there and _runs(cases[0].suite.properties, arrangement, precision):
                return _said(arrangement, precision, cases, best if here else rival, rival if here else best)
    return ""


def _candidates(cases: Sequence[Seen]) -> Iterator[tuple[str, str]]:
    """Small layouts with and without the options of the failing case, in its precision; last the failing case in fp64."""
    layout, *words = cut(cases[0].arrangement)
    precision = cases[0].precision
    endings = dict.fromkeys(["", *(f"+{word}" for word in words), "".join(f"+{word}" for word in words)])
    yield from ((f"{layout}{ending}", precision) for ending in endings)
    yield from ((f"{one}{ending}", precision) for one in _LAYOUTS for ending in reversed(endings))
    yield cases[0].arrangement, "fp64"


def _was_run(arrangement: str, precision: str, cases: Sequence[Seen]) -> bool:
    return (arrangement, precision) in {(case.arrangement, case.precision) for case in cases}


def _runs(said: Mapping[str, str], arrangement: str, precision: str) -> bool:
    """Whether the preset can have it, which `traits` could read. A checkpoint's own numbers are not known here: it may."""
    preset = PRESETS[said["preset"]] if said.get("preset") in PRESETS else None
    if preset is None:
        return True
    layout, training, mtp = parse(arrangement, Training())
    model = preset.model if mtp is None else replace(preset.model, num_nextn_predict_layers=mtp)
    case = Case(
        preset=preset.name,
        model=model,
        layout=layout,
        precision=precision,
        implementation=said.get("implementation", "local"),
        transport=said.get("transport", "gloo"),
        seed=DEFAULT_SEED,
        batch_size=_whole(said, "batch_size", preset.batch_size),
        micro_batch_size=_whole(said, "micro_batch_size", preset.micro_batch_size),
        seq_length=_whole(said, "seq_length", preset.seq_length),
        training=training,
    )
    return all(rule(case) is None for rule in RULES)


def _whole(said: Mapping[str, str], name: str, otherwise: int) -> int:
    return int(said[name]) if name in said and _NUMBER.fullmatch(said[name]) else otherwise


def _said(arrangement: str, precision: str, cases: Sequence[Seen], with_it: Cause, without: Cause) -> str:
    how = f" in {precision}" if precision != cases[0].precision else ""
    return f"To decide, run {arrangement}{how}: if it fails, the cause is {_noun(with_it)}, else {_noun(without)}"


def deciding_kernel(check: Check, best: Cause, cases: Sequence[Seen]) -> str:
    """The same where a kernel of core attention may be wrong, and no case says what Transformer Engine's own attention makes.

    `check` is where the first of the cases fails first. An error that a kernel makes is each rank's.
    """
    kernels = cases[0].suite.properties.get("implementation") in _FUSED and _OF_ATTENTION.search(check.name)
    tried = any(case.suite.properties.get("implementation") == _UNFUSED for case in cases)
    if not kernels or tried or any(trait.spreads for trait in best.traits):
        return ""
    how = f"run {cases[0].arrangement} with --implementation {_UNFUSED}"
    return f"To decide, {how}: if it fails, the cause is {_noun(best)}, else a kernel of attention"


def decides(sentence: str) -> tuple[str, str, str] | None:
    """The layout that such a sentence names, with its options, and its precision and its implementation if they are others."""
    found = _SAID.match(sentence)
    return (found["arrangement"], found["precision"] or "", found["implementation"] or "") if found else None


def _noun(cause: Cause) -> str:
    return " with ".join(map(noun, cause.traits)) or "the model itself"
