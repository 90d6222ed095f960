"""A document of `plumbline run --format json` (docs/json.md) as a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbline.report import Case, Check, Report

_NAMES = {"title": "name", "status": "verdict", "relative_error": "rel_error", "limit": "tolerance"}
_KEPT = ("component", "message", "text", "max_diff", "avg_diff", "floor", "worst_rank", "known", "kind", "reproduce")


def report(document: Mapping[str, Any], keep: bool) -> Report:
    """The report; `keep` says that its JUnit files stay."""
    diagnosis = document.get("diagnosis", {})
    return Report(
        verdict=document["verdict"],
        exit_code=document["exit_code"],
        cases=tuple(_case(suite, keep) for suite in document["suites"]),
        counts=document["counts"],
        seconds=document["seconds"],
        left_out=document["left_out"],
        diagnosis=diagnosis.get("sentence", ""),
        deciding=diagnosis.get("deciding", ""),
    )


def _case(suite: Mapping[str, Any], keep: bool) -> Case:
    return Case(
        name=suite["name"],
        layout=suite["layout"],
        self_test=suite["self_test"],
        verdict=suite["verdict"],
        seconds=suite["seconds"],
        counts=suite["counts"],
        checks=tuple(map(_check, suite["checks"])),
        reproduce=suite.get("first", {}).get("reproduce", ""),
        junit=Path(suite["junit"]).absolute() if keep else None,
    )


def _check(said: Mapping[str, Any]) -> Check:
    """Keys that this version does not know are left out: a newer document may have some."""
    told = {_NAMES.get(key, key): value for key, value in said.items() if key in _NAMES or key in _KEPT}
    index, ranks = said.get("worst_index"), said.get("ranks", ())
    return Check(**told, worst_index=None if index is None else tuple(index), ranks=tuple(ranks))
