"""What a case's ranks found, put together."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from validation.case.annotation import Value
from validation.case.case import Case
from validation.case.settings import from_lists
from validation.compare.measurement import Measurement, PieceReport
from validation.run.calls import in_vain
from validation.run.launch import Broken


@dataclass(frozen=True)
class Result:
    """The outcome of one case: every rank's pieces by tensor, or how the run broke. Memory is in bytes.

    `notes` are what a plugin left in each rank's recorder. `uncalled` is what a plugin has put into megatron-core and no rank
    has called, by name, with a module that has the one before it. `overwritten` are fields of the configuration, by their full
    names, to which a plugin gives another value than the case, with that value. `in_vain` says what of a plugin did nothing.
    `by_formula` are tensors that every rank which holds a share has judged by a formula, to the roundings of their dtype.
    """

    case: Case
    seconds: float
    facts: dict[str, Any]
    pieces: dict[str, tuple[PieceReport, ...]] = field(default_factory=dict)
    problems: dict[str, dict[int, str]] = field(default_factory=dict)
    places: tuple[dict[str, int], ...] = ()
    memory: tuple[dict[str, int], ...] = ()
    broken: Broken | None = None
    notes: tuple[dict[str, Any], ...] = ()
    uncalled: dict[str, str] = field(default_factory=dict)
    overwritten: dict[str, Value] = field(default_factory=dict)
    in_vain: str = ""
    by_formula: frozenset[str] = frozenset()

    def measurement(self, name: str, shape: tuple[int, ...]) -> Measurement:
        """All pieces of one tensor."""
        return Measurement(name, shape, self.pieces.get(name, ()))


def merged(case: Case, seconds: float, facts: dict[str, Any], reports: list[dict[str, Any]]) -> Result:
    """The result that the ranks' reports make together."""
    pieces: dict[str, list[PieceReport]] = defaultdict(list)
    problems: dict[str, dict[int, str]] = defaultdict(dict)
    judged: dict[str, bool] = {}
    for rank, report in enumerate(reports):
        for name, found in report["pieces"].items():
            pieces[name].extend(PieceReport.from_list(rank, piece) for piece in found)
        for name, sentence in report["problems"].items():
            problems[name][rank] = sentence
        for name, by_formula in report.get("by_formula", {}).items():
            judged[name] = judged.get(name, True) and by_formula
    first, of_reference = reports[0]["uncalled"], reports[0].get("reference", {})
    overwritten = {name: value for report in reports for name, value in report.get("overwritten", {}).items()}
    return Result(
        case=case,
        seconds=seconds,
        facts={**facts, **of_reference, **reports[0]["settings"]},
        pieces={name: tuple(found) for name, found in pieces.items()},
        problems=dict(problems),
        by_formula=frozenset(name for name, by_formula in judged.items() if by_formula),
        places=tuple(report["place"] for report in reports),
        memory=tuple(report["memory"] for report in reports),
        notes=tuple(report["notes"] for report in reports),
        uncalled={name: where for name, where in first.items() if all(name in report["uncalled"] for report in reports)},
        overwritten=dict(from_lists(sorted(overwritten.items()))),
        # Steps of a case in lockstep that another command has made had the plugin, too, and do not say what it did.
        in_vain="" if "resumed" in of_reference else in_vain([report["calls"] for report in reports]),
    )
