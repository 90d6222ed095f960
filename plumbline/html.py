"""A report as a notebook shows it: a verdict, the diagnosis, a row for each case, and its failures to unfold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from plumbline.report import Case, Check, Report

_SHOWN = 50
"""Failures of a case."""
_COLUMNS = ("Verdict", "Check", "Relative error", "Tolerance", "Worst index", "Ranks")


def html(report: Report) -> str:
    """One element; every text in it is escaped."""
    return f"<div>{''.join(_parts(report))}</div>"


def _parts(report: Report) -> Iterator[str]:
    counted = ", ".join(f"{count} {status}" for status, count in report.counts.items())
    left_out = f", {report.left_out} left out" if report.left_out else ""
    yield f"<p><strong>{escape(report.verdict)}</strong>: {escape(counted or 'no check')}{left_out}</p>"
    for said in (report.diagnosis, report.deciding):
        if said:
            yield f"<p>{escape(said)}</p>"
    yield _table(("Layout", "Verdict", "First failure", "Seconds"), map(_of_case, report.cases))
    yield from (_failures(case) for case in report.cases if case.failed)


def _of_case(case: Case) -> Iterable[str]:
    return (case.layout or case.name, case.verdict, str(case.first_failure or ""), f"{case.seconds:.1f}")


def _failures(case: Case) -> str:
    shown, more = case.failed[:_SHOWN], len(case.failed) - _SHOWN
    rest = f"<p>and {more} more</p>" if more > 0 else ""
    again = f"<p>Reproduce: <code>{escape(case.reproduce)}</code></p>" if case.reproduce else ""
    title = f"{case.layout or case.name}: {len(case.failed)} failure{'' if len(case.failed) == 1 else 's'}"
    return f"<details><summary>{escape(title)}</summary>{_table(_COLUMNS, map(_of_check, shown))}{rest}{again}</details>"


def _of_check(check: Check) -> Iterable[str]:
    ranks, place = ", ".join(map(str, check.ranks)), "" if check.worst_index is None else str(list(check.worst_index))
    return (check.verdict, check.name, _number(check.rel_error), _number(check.tolerance), place, ranks)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
