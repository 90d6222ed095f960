"""`python -m validation faults`: the scorecard."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from validation.cache import limit
from validation.case import tree
from validation.case.case import PRECISIONS, Case
from validation.case.empty import refuse_empty
from validation.case.errors import ExitCode, UsageError
from validation.case.home import home
from validation.case.plural import many
from validation.case.suggestions import join
from validation.checks.before import ASIDE
from validation.faults import catalogue
from validation.faults.fault import Fault
from validation.machine import machine, version
from validation.run.command_line import add_cache_limit, whole
from validation.run.options import Settings
from validation.run.prepare import prepare
from validation.scorecard.behind import ACTIVATED, DUE, behind
from validation.scorecard.judge import SEEN, Clean, Outcome
from validation.scorecard.lane import KEPT, OWN, Lane
from validation.scorecard.layouts import COUNT, diagnosed
from validation.scorecard.measured import Measured, load
from validation.scorecard.page import BEHIND, save
from validation.scorecard.record import Record, described
from validation.scorecard.report import CLEAN, Scorecard, file_of, sizes
from validation.scorecard.rows import joined
from validation.scorecard.run import outcomes
from validation.scorecard.trial import Trial


def add_options(add: Callable[..., Any]) -> None:
    """Its options."""
    add("--only", action="append", default=[], metavar="ID", help="this fault (A01), or all whose ids begin so (A); repeatable")
    add(
        "--behind",
        action="append",
        default=[],
        metavar="BUG",
        help="put the faults in beside this known upstream bug, by its id in validation/run/known.yaml, or all; repeatable",
    )
    add(
        "--diagnose",
        action="store_true",
        help=f"run each fault in {COUNT} cases and compare what a diagnosis names with what the fault is",
    )
    add("--again", action="store_true", help="with --diagnose: run nothing, take the testsuites that an earlier run left")
    add(
        "--implementation",
        default=OWN.implementation,
        metavar="NAME",
        help="put every fault into cases of this one, such as te",
    )
    add("--precision", default="", help="put every fault into cases of this precision; without it each has its own")
    add("--share-gpu", type=whole, default=None, metavar="N", help="run on GPUs, of which each is shared by up to N ranks")
    add(
        "--record",
        default=None,
        metavar="FILE",
        help="keep what comes of each fault in FILE as soon as it is known; what FILE has is not run again",
    )
    add("--list", action="store_true", help="list the catalogue and run nothing")
    add("--results", default="results/faults", metavar="DIR", help="where the JUnit files go (default results/faults)")
    add("--jobs", type=int, default=2, metavar="N", help="cases that run at the same time (default 2)")
    add("--timeout", type=float, default=600.0, metavar="SECONDS", help="after which a case is killed (default 600)")
    add_cache_limit(add)
    add(
        "--write",
        action="store_true",
        help="write docs/scorecard.md and its data; with --only or --behind the rows of the others stay",
    )


def run(options: argparse.Namespace, command: str) -> int:
    """Run what is asked for; returns the exit code. Raises UsageError."""
    refuse_empty(options, ("only", "results", "behind", "cache_limit", "implementation", "record"))
    wanted, bugs, lane = chosen(options.only), known(options.behind), _lane(options)
    if options.list:
        sys.stdout.write("".join(f"{fault.id}  {fault.group}: {fault.does}\n" for fault in wanted))
        return ExitCode.PASS
    if options.write:
        tree.needs_a_checkout("--write")
    if options.write and not set(bugs) <= set(ACTIVATED):
        raise UsageError(f"--write writes what is tried beside {', '.join(ACTIVATED)}; name some of these, or all")
    if options.again and not options.diagnose:
        raise UsageError("--again is about diagnoses; give --diagnose, too")
    if options.diagnose and bugs:
        raise UsageError("--diagnose runs faults without known upstream bugs; leave --behind out")
    _refuse_elsewhere(options, lane)
    if options.jobs < 1 or not options.timeout > 0:
        raise UsageError("--jobs is 1 or more, and --timeout a number of seconds greater than 0")
    if options.diagnose:
        return _diagnose(wanted, options, command)
    partly = bool(options.only) or (bool(bugs) and set(bugs) != set(ACTIVATED))
    tried = behind(_possible(wanted), bugs) if bugs else lane.trials(wanted)
    if not tried:
        raise UsageError(_nothing(wanted, bugs, lane))
    facts = machine()
    record = Record(Path(options.record) if options.record else None, described(facts, lane.on_cpu))
    left = record.left(tried)
    settings = _settings(options, [trial.case for trial in left or tried], command)
    ASIDE.take(files(settings.results, tried))
    if left:
        prepare(settings)
    writing = _Writing(BEHIND if bugs else lane.data, partly) if options.write else None
    return _score(_Wanted(tried, left, record, sizes(lane)), settings, {"command": command, **facts}, writing)


def _possible(wanted: Sequence[Fault]) -> list[Fault]:
    """Those that this megatron-core can have. Raises UsageError for none."""
    release = version("megatron-core")
    found = [fault for fault in wanted if fault.exists_in(release)]
    if not found:
        raise UsageError(_nothing(wanted, (), OWN))
    return found


def _lane(options: argparse.Namespace) -> Lane:
    """Where the faults are put. Raises UsageError."""
    transport = "gloo" if options.share_gpu is None else "staged"
    lane = Lane(options.implementation, options.precision, transport)
    if options.share_gpu is not None and options.share_gpu < 1:
        raise UsageError(f"--share-gpu {options.share_gpu}: give 1 or more")
    if options.precision and options.precision not in PRECISIONS:
        raise UsageError(f"precision {options.precision!r} is unknown; known are {join(PRECISIONS)}")
    return lane


def _refuse_elsewhere(options: argparse.Namespace, lane: Lane) -> None:
    """What is done where the files of the catalogue say, and nowhere else. Raises UsageError."""
    if lane != OWN and (options.behind or options.diagnose):
        raise UsageError(
            "--behind and --diagnose run faults as their files say; leave out --implementation, --precision and --share-gpu"
        )
    if options.record and options.diagnose:
        raise UsageError("--record keeps what comes of each fault; diagnoses are kept as testsuites, which --again takes")
    if options.write and lane not in (OWN, *KEPT):
        kept = join(one.words for one in KEPT)
        raise UsageError(f"--write writes what runs as the files say, or with {kept}; leave --write out")


def _nothing(wanted: Sequence[Fault], bugs: Sequence[str], lane: Lane) -> str:
    """Why no fault can be put anywhere."""
    if bugs:
        return f"no fault that --only names can be put in beside {', '.join(bugs)}; leave --only out"
    first = wanted[0]
    return f"no case here can have these faults: {first.id}: {lane.refusal(first, first.layouts[0])}"


def _diagnose(wanted: Sequence[Fault], options: argparse.Namespace, command: str) -> ExitCode:
    from validation.scorecard import diagnoses, told

    wanted = _possible(wanted)
    settings = _settings(options, [case for fault in wanted for case in diagnosed(fault)], command)
    where = described(machine(), on_cpu=True) if options.write else ""
    if options.again:
        return told.tell(diagnoses.kept(wanted, settings.results), len(wanted), where, bool(options.only))
    prepare(settings)
    return told.tell(diagnoses.run(wanted, settings), len(wanted), where, bool(options.only))


def chosen(names: Sequence[str]) -> tuple[Fault, ...]:
    """The faults whose ids begin with one of these, all where there is none. Raises UsageError."""
    known = catalogue.faults()
    for name in names:
        if not any(fault.id.startswith(name.upper()) for fault in known):
            raise UsageError(f"--only {name}: no fault of the catalogue; `{tree.VALIDATION} faults --list` lists them")
    return tuple(fault for fault in known if not names or fault.id.startswith(tuple(name.upper() for name in names)))


def known(names: Sequence[str]) -> tuple[str, ...]:
    """The ids of known upstream bugs that `--behind` names. Raises UsageError for one beside which no fault can be put in."""
    for name in names:
        if name != "all" and name not in ACTIVATED | DUE:
            those = ", ".join(ACTIVATED | DUE)
            raise UsageError(f"--behind {name}: no bug that a case can be given here; those are {those}, or all")
    return tuple(ACTIVATED) if "all" in names else tuple(dict.fromkeys(names))


def _settings(options: argparse.Namespace, cases: Iterable[Case], command: str) -> Settings:
    return Settings(
        cases=tuple(dict.fromkeys(cases)),
        results=Path(options.results),
        home=home(),
        timeout=options.timeout,
        max_ranks=8,
        share_gpu=options.share_gpu,
        jobs=options.jobs,
        debug=False,
        fresh=False,
        command=command,
        cache_limit=limit.limit(options.cache_limit, home()),
    )


def files(results: Path, tried: Sequence[Trial]) -> list[Path]:
    """What the scorecard of these writes."""
    return [file_of(results, group) for group in (*_groups(tried), CLEAN)]


def _groups(tried: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(trial.bug or trial.fault.group for trial in tried))


@dataclass(frozen=True)
class _Wanted:
    """What is told of, what of it is left to run, the record of the rest, and how large each fault is (report.Scorecard)."""

    tried: Sequence[Trial]
    left: Sequence[Trial]
    record: Record
    sizes: Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class _Writing:
    """The file in docs that is written; `partly` says that it keeps the rows of all other faults."""

    data: Path
    partly: bool


def _score(wanted: _Wanted, settings: Settings, facts: Mapping[str, str], writing: _Writing | None) -> ExitCode:
    """Run them and tell what came of it, and of what the record has already."""
    start, record, before = time.monotonic(), wanted.record, wanted.record.kept
    for path in files(settings.results, wanted.tried):
        ASIDE.settle(path, {}, sys.maxsize)
    card = Scorecard(settings.results, facts, _groups(wanted.tried), wanted.sizes)
    there: list[Clean | Outcome] = [*before.clean, *before.outcomes]
    for one in there:
        card.add(one)
    cases = len({trial.case for trial in wanted.left})
    sys.stdout.write(f"===== scorecard: {many(len(wanted.left), 'fault')} in {many(cases, 'case')} of preset tiny =====\n")
    sys.stdout.flush()
    found, clean = list(before.outcomes), list(before.clean)
    for one in outcomes(wanted.left, settings):
        card.add(one)
        record.add(one)
        if isinstance(one, Clean):
            clean.append(one)
        else:
            found.append(one)
    code, seconds = card.finish(), before.seconds + time.monotonic() - start
    sys.stdout.write(_summary(found, clean, seconds, code))
    if writing is not None:
        new = Measured(record.machine, round(seconds), tuple(found), tuple(clean))
        save(joined(load(writing.data) if writing.partly and writing.data.exists() else None, new), writing.data)
    return code


def _summary(found: Sequence[Outcome], clean: Sequence[Clean], seconds: float, code: ExitCode) -> str:
    caught, seen = sum(one.caught for one in found), sum(one.status == SEEN for one in found)
    alarms = sum(bool(one.failing or one.says) for one in clean)
    peers = Counter(name for one in found for name, broken in one.peers.items() if broken)
    said = (
        f"{many(len(found), 'fault')}, {caught} caught, {seen} localised, {alarms} false alarms in "
        f"{many(len(clean), 'case')}, {seconds:.1f} s"
    )
    others = ", ".join(f"{name} {count}" for name, count in peers.most_common())
    return f"Peers' rules on the same runs: {others or 'none sees any'}\n===== Scorecard: {code.name} ({said}) =====\n"
