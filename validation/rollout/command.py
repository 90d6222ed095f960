"""`python -m validation logprobs`: what an engine said of its tokens, against HuggingFace."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ci import junit
from validation.case import writing
from validation.case.case import PRECISIONS, Case
from validation.case.empty import refuse_empty
from validation.case.errors import ExitCode, UsageError
from validation.case.folder import model_from_folder
from validation.case.parameters import threads
from validation.case.plural import many
from validation.case.suggestions import join
from validation.checks.progress import Progress
from validation.machine import cores, machine
from validation.rollout import causes, figures, files, floors, megatron, routes, said
from validation.rollout.dump import Dump, check_tokens, check_weights
from validation.rollout.figures import Values
from validation.rollout.floors import Floor
from validation.rollout.judge import ENGINE, ERROR, FAIL, MEGATRON, TRAINER, TRUTH, Pair, judge, together
from validation.rollout.made_with import MadeWith
from validation.rollout.options import TEXTS
from validation.rollout.source import Source, source_of
from validation.rollout.truth import HuggingFace, every, without_mtp


@dataclass(frozen=True)
class Side:
    """Log-probabilities of one side, with their own truth and what rounding does to them."""

    name: str
    values: Values
    truth: Values
    floor: Floor


def run(options: argparse.Namespace, command: str) -> int:
    """Compare; returns the exit code. Raises UsageError."""
    refuse_empty(options, TEXTS)
    if options.results:
        writing.check_folder(Path(options.results), "--results")
    start = time.monotonic()
    made = MadeWith(options.mode, options.temperature, options.engine_precision)
    folder, earlier = Path(options.hf_model_path), _path(options.earlier_hf_model_path)
    dump = read(Path(options.file), options.weights, folder, made)
    source = source_of(options, folder, earlier)
    wanted = _wanted(options)
    case = None if wanted is None else megatron.case_of(wanted, folder, dump)
    tokens = sum(sum(one.counted) for one in dump.sequences)
    idle = f" ({dump.idle} without a token that counts)" if dump.idle else ""
    how = ", ".join(filter(None, (dump.engine, dump.precision, dump.mode)))
    sys.stdout.write(
        f"===== {dump.path} ({how}) against {folder}: {many(len(dump.sequences), 'sequence')}{idle}, "
        f"{many(tokens, 'token')} =====\n"
    )
    if wanted is not None:
        megatron.prepare(wanted)
    progress = Progress.on(sys.stdout)
    try:
        with _threads(folder), progress.doing("computing the same tokens with HuggingFace and Megatron"):
            told = compare(dump, source, earlier, case)
    finally:
        progress.close()
    seconds = time.monotonic() - start
    return _report(options, dump, told, seconds, command)


@contextmanager
def _threads(folder: Path) -> Iterator[None]:
    """Within it torch computes with as many threads as the model of the folder is worth."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads(without_mtp(model_from_folder(folder)), cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _wanted(options: argparse.Namespace) -> megatron.Wanted | None:
    """What Megatron is to run, if it is asked for."""
    if options.layout is None and options.candidate_checkpoint is None:
        for name in ("precision", "megatron_path", "implementation"):
            if getattr(options, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} is about Megatron, which is not asked for; add --layout, such as single"
                )
        return None
    precision = options.precision or "fp64"
    layout, checkpoint = options.layout or "single", options.candidate_checkpoint
    how = options.transport or "gloo", options.implementation or "local"
    return megatron.Wanted(layout, checkpoint, precision, options.megatron_path, *how)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def read(path: Path, weights: str | None, folder: Path, made: MadeWith) -> Dump:
    """The dump of a file: one version of the weights, tokens and experts that the folder's model has. Raises UsageError."""
    model = model_from_folder(folder)
    dump = files.read(path, made, model)
    check_weights(dump, weights)
    layers = model.moe_layers
    said_layers = f"layers {join([str(layer) for layer in layers])}" if len(layers) < 5 else f"{layers[0]} to {layers[-1]}"
    check_tokens(dump, model.vocab_size, len(layers), model.n_routed_experts, model.num_experts_per_tok, said_layers)
    return dump


def compare(dump: Dump, source: Source, earlier: Path | None, case: Case | None = None) -> said.Told:
    """Every verdict on a dump."""
    model = source.open("fp64", _rounded(dump.precision))
    truth = every(model, dump.sequences, dump.applied)
    spread = floors.spread(truth, dump.sequences)
    sides = [
        Side(
            ENGINE, figures.values(dump.sequences, lambda one: one.logprobs), truth, _floor(dump, source, dump.precision, truth)
        )
    ]
    if any(one.trainer is not None for one in dump.sequences):
        sides.append(_trainer(dump, source, truth, sides[0].floor))
    if case is not None:
        sides.append(_megatron(dump, source, case, truth))
    pairs = [judge(side.name, TRUTH, (side.values, side.truth), dump.sequences, side.floor, spread) for side in sides]
    found = routes.judge(source, dump, model) if dump.precision in PRECISIONS else ()
    explained = {
        side.name: _cause(dump, source, side, pair, model, source.of(earlier) if earlier else None)
        for side, pair in zip(sides, pairs, strict=True)
        if pair.failing
    }
    pairs += [_between(sides[0], other, dump, spread) for other in sides[1:]]
    return said.Told(tuple(pairs), found, explained)


def _rounded(precision: str) -> str:
    """The precision that weights are rounded to; those of an engine in fewer bits are in none that is known."""
    return precision if precision in PRECISIONS else "bf16"


def _floor(dump: Dump, source: Source, precision: str, truth: Values) -> Floor:
    return floors.measure(source, dump.sequences, precision, truth, dump.applied, dump.resolution)


def _trainer(dump: Dump, source: Source, truth: Values, floor: Floor) -> Side:
    """The trainer's own log-probabilities, if the file has them."""
    values = figures.values(dump.sequences, lambda one: one.trainer)
    if dump.trainer_precision == dump.precision:
        return Side(TRAINER, values, truth, floor)
    own = _truth(dump, source, dump.trainer_precision)
    return Side(TRAINER, values, own, _floor(dump, source, dump.trainer_precision, own))


def _megatron(dump: Dump, source: Source, case: Case, truth: Values) -> Side:
    """Megatron's, computed now. Nothing of them is stored in a file, which would round them."""
    values = megatron.logprobs(case, dump)
    own = truth if case.precision == dump.precision else _truth(dump, source, case.precision)
    return Side(MEGATRON, values, own, floors.measure(source, dump.sequences, case.precision, own, dump.applied))


def _truth(dump: Dump, source: Source, precision: str) -> Values:
    """The truth with the weights as a precision rounds them."""
    return every(source.open("fp64", _rounded(precision)), dump.sequences, dump.applied)


def _between(engine: Side, other: Side, dump: Dump, spread: float) -> Pair:
    """The engine against another side: both may be off from the truth, and their truths from each other."""
    apart = {
        kind: found.largest for kind, found in figures.by_kind(engine.truth, other.truth, figures.masks(dump.sequences)).items()
    }
    pair = (engine.values, other.values)
    return judge(engine.name, other.name, pair, dump.sequences, together(engine.floor, other.floor), spread, apart)


def _cause(dump: Dump, source: Source, side: Side, pair: Pair, model: HuggingFace, earlier: Source | None) -> str:
    """What explains a side that is wrong."""
    kinds = [verdict.kind for verdict in pair.failing]
    chosen = causes.failing(figures.masks(dump.sequences), kinds)
    wrong = causes.Wrong(side.values, side.truth, chosen, side.floor)
    before = None
    if earlier is not None:
        before = every(earlier.open("fp64", _rounded(dump.precision)), dump.sequences, dump.applied)
    found = causes.explain(wrong, model, dump, dump.applied, before, routed=side.name == ENGINE)
    return found or _of_precision(dump, source, side, pair)


def _of_precision(dump: Dump, source: Source, side: Side, pair: Pair) -> str:
    """Whether rounding in the next coarser precision makes the numbers, where all kinds of tokens are wrong."""
    named = {ENGINE: dump.precision, TRAINER: dump.trainer_precision}.get(side.name, "")
    coarser = _COARSER.get(named, "")
    if not coarser or len(pair.failing) < len(pair.verdicts):
        return ""
    truth = _truth(dump, source, coarser)
    floor = _floor(dump, source, coarser, truth)
    if judge(side.name, TRUTH, (side.values, truth), dump.sequences, floor, floors.spread(truth, dump.sequences)).agrees:
        return f"they are as far off as {coarser} rounds, and the file says {named}: is {coarser} what computes them?"
    return ""


_COARSER = {"fp64": "fp32", "fp32": "bf16"}


def _report(options: argparse.Namespace, dump: Dump, told: said.Told, seconds: float, command: str) -> int:
    for line in (*said.lines(told), *said.sentences(told)):
        sys.stdout.write(f"{line}\n")
    statuses = Counter(one.status for one in told.checks)
    word = "FAIL" if statuses[FAIL] else "ERROR" if statuses[ERROR] else "PASS"
    counted = ", ".join(
        [f"{many(len(told.checks), 'check')}", *(f"{statuses[one]} {one}" for one in (FAIL, ERROR) if statuses[one])]
    )
    sys.stdout.write(f"===== Overall result: {word} ({counted}, {seconds:.1f} s) =====\n")
    if options.results:
        _write_junit(Path(options.results), dump, told, seconds, command)
    options.document |= {
        "verdict": word,
        "seconds": round(seconds, 3),
        "checks": len(told.checks),
        "counts": dict(statuses),
        **said.document(told),
    }
    return int(ExitCode.PASS if word == "PASS" else ExitCode.FAIL)


def _write_junit(folder: Path, dump: Dump, told: said.Told, seconds: float, command: str) -> None:
    name = f"logprobs-{dump.path.resolve().stem}"
    properties = {"command": command, "engine": dump.engine, "weights": dump.weights, "precision": dump.precision, **machine()}
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
    path = folder / f"{name}.xml"
    junit.write(path, junit.Suite(name, said.junit_checks(told), properties, seconds, stamp))
    sys.stdout.write(f"JUnit: {path}\n")
