"""`python -m ci sessions`: docs/matrix.md, the table as a reader wants it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ci.table import TABLE, Row, Tool, rows, tools
from validation.case import tree, writing
from validation.case.errors import ExitCode

PAGE = Path(__file__).parents[1] / "docs" / "matrix.md"

_HEAD = """# Sessions

What runs where, written by `python -m ci sessions` from `ci/matrix.yaml`. Each line is a session: `nox -s NAME` runs it on any
machine that has what it needs, CI for the events under *when*. A change of documentation alone leaves out what needs GPUs;
whatever is left out is not asked for by the gate, and the plan's summary says why each session runs.

## Comparisons

The gate asks for the results of each.
"""
_TOOLS = """
## Tools

They pass or fail; the gate asks for the job alone.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page is not current")


def main(options: argparse.Namespace) -> int:
    """Write the page."""
    tree.needs_a_checkout("sessions")
    text = page(rows(TABLE), tools(TABLE))
    if not options.check:
        writing.write(PAGE, text)
    elif PAGE.read_text(encoding="utf-8") != text:
        sys.stdout.write(f"{PAGE.name} is not what {TABLE.name} says: write it with {tree.CI} sessions\n")
        return int(ExitCode.FAIL)
    return int(ExitCode.PASS)


def page(comparisons: Iterable[Row], others: Iterable[Tool]) -> str:
    """The whole page."""
    compared = _table(["session", "layouts", "preset", "precision", "transport", *_SHARED], map(_comparison, comparisons))
    rest = _table(["session", "does", *_SHARED], ([one.session, one.does, *_shared(one)] for one in others))
    return f"{_HEAD}\n{compared}{_TOOLS}\n{rest}"


_SHARED = ["machine", "GPUs", "when", "minutes"]


def _shared(one: Row | Tool) -> list[str]:
    nodes = [f"{one.nodes} nodes of Slurm"] if one.nodes > 1 else []
    return [", ".join((*one.runner, *nodes)), str(one.gpus or ""), ", ".join(one.when) or "by hand", str(one.timeout)]


def _comparison(row: Row) -> list[str]:
    precision = row.precision or "the recipe's"
    kind = precision if row.implementation == "local" else f"{precision}, {row.implementation}"
    layouts, model = " ".join(row.layouts) or "its stand-in's", " ".join((row.preset or row.recipe, *row.set))
    return [row.session, layouts, model, kind, row.transport, *_shared(row)]


def _table(head: list[str], lines: Iterable[list[str]]) -> str:
    def written() -> Iterator[str]:
        for cells in (head, ["---"] * len(head), *lines):
            yield f"| {' | '.join(cells)} |\n"

    return "".join(written())
