"""docs/versions.md: a table of what was measured, and a paragraph for every release about what it broke or mended."""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ci import junit
from ci.outcomes import ROOT, Cell, Column, known_bugs, load, read_column, save
from ci.releases import RELEASES, titles

PAGE = ROOT / "docs" / "versions.md"

_HEAD = """# Versions

What each release computes, measured by `nox -s versions` and written by it (`ci/versions.py`) from `docs/versions.json`:
the same code, preset tiny, fp64 on the CPU, every release in its own environment. Forward, gradients of every tensor between
modules, gradients of every parameter after `finalize_model_grads`, two optimizer steps, all against HuggingFace.

- **right**: every check passes; the number is the largest relative error of any tensor.
- **wrong**: as many of the checks fail; the link leads to what the bug is.
- **refused**: megatron-core stops with an error, which stands below the table.
"""


def page(columns: Sequence[Column]) -> str:
    """The whole page."""
    parts = [_HEAD, _table(columns), _refusals(columns), "## What each release changed\n", *_changes(columns)]
    return "\n".join(part for part in parts if part)


def _table(columns: Sequence[Column]) -> str:
    rows = [["megatron-core", *(column.megatron_core for column in columns)]]
    rows += [["---"] * len(rows[0])]
    rows += [["transformers", *(column.transformers for column in columns)]]
    rows += [["torch", *(column.torch for column in columns)]]
    rows += [[title, *(_shown(column.cells[title]) for column in columns)] for title in titles()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _shown(cell: Cell) -> str:
    if cell.outcome == "right":
        return f"right {cell.largest_error:.0e}"
    if cell.outcome == "refused":
        return "refused"
    pages = {bug["id"]: bug["finding"].removeprefix("docs/") for bug in known_bugs()}
    links = ", ".join(f"[wrong]({pages[name]})" for name in cell.known) or "wrong, not listed"
    return f"{links}: {cell.failed} of {cell.checks}"


def _refusals(columns: Sequence[Column]) -> str:
    by_sentence: dict[tuple[str, str], list[str]] = defaultdict(list)
    for column in columns:
        for title, cell in column.cells.items():
            if cell.outcome == "refused":
                by_sentence[title, cell.says].append(_name(column))
    lines = [f"- {title} with {_and(names)}: {says}\n" for (title, says), names in by_sentence.items()]
    return "Refused:\n\n" + "".join(lines) if lines else ""


def _name(column: Column) -> str:
    return f"megatron-core {column.megatron_core}"


def _and(words: Iterable[str]) -> str:
    *most, last = dict.fromkeys(words)
    return f"{', '.join(most)} and {last}" if most else last


def _changes(columns: Sequence[Column]) -> Iterator[str]:
    """A paragraph for each release, about what is not as in the one before it."""
    for before, after in itertools.pairwise(columns):
        name, old = _name(after), _name(before)
        if name == old:
            name, old = f"transformers {after.transformers}", f"transformers {before.transformers} (both with {old})"
        lines = [_change(title, before.cells[title], after.cells[title]) for title in titles()]
        found = "".join(lines) or "No outcome changes.\n"
        yield f"**{name}**, compared with {old}:\n\n{found}"


def _change(title: str, before: Cell, after: Cell) -> str:
    """A line on one row, empty where the outcome is the same for the same reason."""
    if (before.outcome, before.known) == (after.outcome, after.known):
        return ""
    verb = {"right": "mends"}.get(after.outcome, "breaks" if before.outcome == "right" else "changes")
    return f"- {verb} {title}: {_outcome(before)} before, now {_outcome(after)}\n"


def _outcome(cell: Cell) -> str:
    what = {bug["id"]: bug["what"] for bug in known_bugs()}
    return f"{cell.outcome} ({'; '.join(what[name] for name in cell.known)})" if cell.known else cell.outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m ci.versions RESULTS`: read what the releases left there, and write data and page. Without: the page anew."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        columns = [read_column(Path(given[0]) / release.name) for release in RELEASES] if given else load()
    except junit.UnreadableResults as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if given:
        save(columns)
    PAGE.write_text(page(columns), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
