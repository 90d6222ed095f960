"""What an engine said of some sequences: their tokens, and a log-probability for each. No torch.

Positions count from 0 through a sequence, prompt included. The log-probability at a position is that of the token there, given
all tokens before it. Position 0 has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from validation.case.case import PRECISIONS
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.strangers import quoted, shown

RAW, PROCESSED = "raw_logprobs", "processed_logprobs"
"""vLLM's words: of the model's own logits, or of those that tokens are drawn from (divided by the temperature)."""
PREFILL, FIRST, DECODE = "prefill", "first decode", "decode"
KINDS = (PREFILL, FIRST, DECODE)
"""Which forward pass makes a log-probability: that of the prompt, which also makes the answer's first token's; the first that
reads the cache; every later one."""
UNKNOWN = ("fp8", "int4", "nvfp4")
"""Precisions of engines for which no floor is measured."""
RESOLUTIONS = {"float64": 0.0, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""By which share of itself a number is rounded at most that is stored in a type."""
_ROUNDING = 1e-5
"""By how much rounding may lift a log-probability above 0."""
_COLDEST = 1e-6
"""Below it engines take the likeliest token, and logits that are divided by it may be infinite."""
Routes = tuple[tuple[tuple[int, ...], ...], ...]
"""[position][layer of experts][k]."""


@dataclass(frozen=True)
class Said:
    """One sequence: `tokens`, of which the first `prompt` were given; a log-probability each, None if the engine gave none.

    `counted` is the mask: which positions are compared. `trainer` has the trainer's log-probabilities, if the dump does.
    `routed` are the experts that each token went to, in each layer that has experts; its last position may be missing.
    """

    tokens: tuple[int, ...]
    prompt: int
    logprobs: tuple[float | None, ...]
    counted: tuple[bool, ...]
    trainer: tuple[float | None, ...] | None = None
    routed: Routes | None = None
    weights: str = ""

    def kind(self, position: int) -> str:
        """Which forward pass makes the log-probability at a position."""
        return PREFILL if position <= self.prompt else FIRST if position == self.prompt + 1 else DECODE


@dataclass(frozen=True)
class Dump:
    """A file: its sequences, and how their log-probabilities were made.

    `precision` is what the engine computes in, `trainer_precision` what the trainer does. `resolution` is the relative rounding
    of the numbers in the file.
    """

    path: Path
    sequences: tuple[Said, ...]
    mode: str
    temperature: float
    precision: str
    trainer_precision: str
    engine: str = ""
    weights: str = ""
    resolution: float = 0.0

    @property
    def idle(self) -> int:
        """How many sequences have no token that counts."""
        return sum(not any(one.counted) for one in self.sequences)

    @property
    def applied(self) -> float:
        """The temperature that the log-probabilities have in them."""
        return self.temperature if self.mode == PROCESSED else 1.0


def check_header(
    source: str,
    mode: str | None,
    temperature: float | None,
    precision: str,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
) -> None:
    """Raises UsageError if log-probabilities that are made like this cannot be compared."""
    if mode not in (RAW, PROCESSED):
        raise UsageError(f"{source}: {_mode(mode)}")
    if mode == PROCESSED and temperature is None:
        raise UsageError(
            f"{source}: processed log-probabilities without their temperature say nothing; add `temperature`, or have the "
            f"engine return {RAW}"
        )
    if temperature is not None and not (math.isfinite(temperature) and temperature >= _COLDEST):
        greedy = "sampling is greedy then, and log-probabilities are those of temperature 1: say so"
        advice = greedy if 0 <= temperature < _COLDEST else ""
        raise UsageError(f"{source}: temperature {temperature:g}; {advice or 'give a number above 0'}")
    if precision not in (*PRECISIONS, *UNKNOWN):
        raise UsageError(
            f"{source}: precision {quoted(precision)} is unknown; give what the engine computes in: "
            f"{', '.join((*PRECISIONS, *UNKNOWN))}"
        )
    if mode == PROCESSED:
        _check_cut(source, top_p, top_k, min_p)


def _mode(mode: str | None) -> str:
    if mode in ("raw_logits", "processed_logits"):
        return f"mode {mode}: logits are no log-probabilities; have the engine return {RAW} or {PROCESSED}"
    said = "no `mode`" if mode is None else f"mode {quoted(mode)} is unknown"
    return f"{said}; give {RAW} (of the model's own logits) or {PROCESSED} (after the temperature)"


def _check_cut(source: str, top_p: float | None, top_k: int | None, min_p: float | None) -> None:
    cut = [("top_p", top_p, (None, 1)), ("top_k", top_k, (None, 0, -1)), ("min_p", min_p, (None, 0))]
    for name, value, whole in cut:
        if value not in whole:
            raise UsageError(
                f"{source}: {name} {shown(value)} leaves a part of the vocabulary out, and processed log-probabilities are of "
                f"what is left; have the engine return {RAW} (vLLM: --logprobs-mode {RAW})"
            )


def check_sequence(source: str, one: Said, *, idle: bool = False) -> None:
    """Raises UsageError for a sequence that is not as it must be. With `idle` it may have no token that counts."""
    length = len(one.tokens)
    if idle and not any(one.counted):
        return
    if length < 2:
        raise UsageError(f"{source} has {many(length, 'token')}; a log-probability needs a token and one before it")
    if not 1 <= one.prompt < length + idle:
        raise UsageError(
            f"{source}: prompt is {one.prompt} of {many(length, 'token')}; give how many tokens were given, 1 or more"
        )
    if one.counted[0]:
        raise UsageError(f"{source}: its mask counts token 0, before which there is none; it has no log-probability")
    for name, values in (("logprobs", one.logprobs), ("trainer_logprobs", one.trainer)):
        if values is not None:
            _check_values(source, name, values, one)
    if one.routed is not None and len(one.routed) not in (length, length - 1):
        raise UsageError(
            f"{source} has {many(length, 'token')} and {len(one.routed)} routed_experts; give one for each, or all but the last"
        )
    if not any(one.counted):
        raise UsageError(f"{source}: its mask counts no token; leave the sequence out")


def check_length(source: str, name: str, found: int, tokens: int) -> None:
    """Raises UsageError if there is not one value for each token."""
    if found == tokens:
        return
    moved = "; with null for token 0 there is one for each token" if found == tokens - 1 else ""
    raise UsageError(f"{source} has {many(tokens, 'token')} and {found} {name}; give one for each token{moved}")


def _check_values(source: str, name: str, values: Sequence[float | None], one: Said) -> None:
    for position, value in enumerate(values):
        if not one.counted[position]:
            continue
        if value is None:
            raise UsageError(f"{source}: its mask counts token {position}, which has none in {name}; mask it out")
        if math.isnan(value):
            raise UsageError(f"{source}: {name}[{position}] is NaN; the engine's own computation broke there, or mask it out")
        if math.isinf(value):
            raise UsageError(f"{source}: {name}[{position}] is {value}; a token of probability 0 cannot have been drawn")
        if value > _ROUNDING:
            raise UsageError(
                f"{source}: {name}[{position}] is {value:.6g}, above 0; give natural logarithms of probabilities, not "
                "probabilities or losses"
            )


def check_tokens(dump: Dump, vocabulary: int, layers: int, experts: int, k: int, sigmoid_layers: str) -> None:
    """Raises UsageError for tokens or experts that the model does not have."""
    for number, one in enumerate(dump.sequences):
        wrong = next((at for at, token in enumerate(one.tokens) if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise UsageError(
                f"{dump.path}, sequence {number}: token {wrong} is {shown(one.tokens[wrong])}, and the vocabulary has "
                f"{vocabulary}; name the folder of the model that the engine ran"
            )
        for at, row in enumerate(one.routed or ()):
            if len(row) != layers or any(len(chosen) != k for chosen in row):
                raise UsageError(
                    f"{dump.path}, sequence {number}: routed_experts[{at}] has the shape {len(row)} x "
                    f"{len(row[0]) if row else 0}; this model has {many(layers, 'layer')} of experts "
                    f"({sigmoid_layers}) and {k} "
                    "experts a token"
                )
            if any(not 0 <= expert < experts for chosen in row for expert in chosen):
                raise UsageError(f"{dump.path}, sequence {number}: routed_experts[{at}] names an expert above {experts - 1}")
            if any(len(set(chosen)) < k for chosen in row):
                raise UsageError(f"{dump.path}, sequence {number}: routed_experts[{at}] names an expert twice")


def check_trainer(dump: Dump) -> None:
    """Raises UsageError if only a part of the sequences has the trainer's log-probabilities."""
    having = [one.trainer is not None for one in dump.sequences]
    if any(having) and not all(having):
        raise UsageError(
            f"{dump.path}: sequence {having.index(True)} has trainer_logprobs and sequence {having.index(False)} has none; "
            "give them for all sequences, or for none"
        )


def check_weights(dump: Dump, wanted: str | None) -> None:
    """Raises UsageError if sequences were made with different weights, or with others than those that are `wanted`."""
    versions = {number: one.weights or dump.weights for number, one in enumerate(dump.sequences) if any(one.counted)}
    start, first = next(iter(versions.items()), (0, dump.weights))
    other = next((number for number, version in versions.items() if version != first), None)
    if other is not None:
        raise UsageError(
            f"{dump.path}: sequence {start} was made with weights {quoted(first)} and sequence {other} with "
            f"{quoted(versions[other])}; give the sequences of one version, with that version's folder"
        )
    if wanted is not None and first != wanted:
        raise UsageError(
            f"{dump.path} was made with weights {quoted(first)}, and --weights asks for {quoted(wanted)}; compare with the "
            "weights that made it"
        )
