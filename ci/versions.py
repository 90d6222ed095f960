"""docs/versions.md: tables of what was measured, and a paragraph for every release about what it broke or mended."""

from __future__ import annotations

import itertools
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ci import junit
from ci.outcomes import ROOT, Cell, Column, columns, known_bugs, load, save
from ci.releases import GROUPS, LIBRARIES, NEWEST, Group, title, titles
from validation.case import writing

PAGE = ROOT / "docs" / "versions.md"

_HEAD = """# Versions

`nox -s versions` measures what each release computes, and writes this page (`ci/versions.py`) from `docs/versions.json`. The
code is the same for all, the preset is tiny, in fp64 on the CPU. Each release has its own environment. Every case compares with
HuggingFace: the forward pass, the gradients of tensors between modules, the gradients of all parameters after
`finalize_model_grads`, and two optimizer steps.

- **right**: every check passes; the number is the largest relative error of any tensor.
- **wrong**: as many of the checks fail; the link leads to what the bug is. A bug of old releases that no page is about stands
  below the tables.
- **refused**: megatron-core stops with an error, which stands below the tables.

"""
_TABLES = (
    (
        "## Megatron-Core",
        "The layouts of `nox -s parity`. In 0.12.3 and 0.13.1 [yarn's scale](findings/yarn-softmax-scale.md) is wrong,\n"
        "and with it every layout. They are run with `--set mscale_all_dim=1.0`, which hides that bug.",
        GROUPS[:1],
    ),
    (
        "## Megatron-Core's own local spec",
        "The same with `--implementation local-stock`, which has no context parallelism.",
        GROUPS[1:2],
    ),
    ("## Known bugs", "Layouts and models that show a bug of some releases.", GROUPS[2:]),
)


def page(measured: Sequence[Column]) -> str:
    """The whole page."""
    names = {release.name for release in LIBRARIES}
    releases = [column for column in measured if column.name not in names]
    parts = [_HEAD + _made_with(releases)]
    parts += [f"{heading}\n\n{text}\n\n{_table(releases, groups)}" for heading, text, groups in _TABLES]
    parts += [_said(releases, "refused", "Refused"), _said(releases, "wrong", "Wrong and not listed")]
    libraries = [column for column in measured if column.name in {*names, NEWEST.name}]
    parts += [_libraries(libraries)] if libraries else []
    return "\n".join([*filter(None, parts), "## What each release changed\n", *_changes(releases)])


def _made_with(releases: Sequence[Column]) -> str:
    libraries = " or ".join(
        dict.fromkeys(f"transformers {column.transformers} and torch {column.torch}" for column in releases)
    )
    return f"The tables of Megatron-Core were made with {libraries}.\n"


def _table(releases: Sequence[Column], groups: Iterable[Group]) -> str:
    rows = [["", *(column.megatron_core for column in releases)]]
    rows += [["---"] * len(rows[0])]
    for group in groups:
        # The heading says local-stock already.
        shown = {
            layout: layout if group.options[:1] == ("--implementation",) else title(group, layout) for layout in group.layouts
        }
        rows += [[shown[name], *(_shown(column.cells[title(group, name)]) for column in releases)] for name in group.layouts]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _shown(cell: Cell) -> str:
    if cell.outcome == "right":
        return f"right {cell.largest_error:.0e}"
    if cell.outcome == "refused":
        return "refused"
    pages = {bug["id"]: bug["finding"].removeprefix("docs/") for bug in known_bugs()}
    links = ", ".join(f"[wrong]({pages[name]})" for name in cell.known) or "wrong, not listed"
    return f"{links}: {cell.failed} of {cell.checks}"


def _libraries(measured: Sequence[Column]) -> str:
    """A row for each release of transformers and of torch, with all the layouts in one cell."""
    parity = set(titles(GROUPS[:1]))
    rows = [["transformers", "torch", "layouts", "largest relative error"], ["---"] * 4]
    for column in measured:
        cells = [cell for name, cell in column.cells.items() if name in parity]
        counts = Counter(cell.outcome for cell in cells)
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        largest = max(cell.largest_error for cell in cells)
        rows += [[column.transformers, column.torch, said, f"{largest:.0e}"]]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    core = _and(f"megatron-core {column.megatron_core}" for column in measured)
    text = (
        f"The layouts of `nox -s parity` with {core}. The first row is what a fresh environment had. Each other row has\n"
        "another release of one of the two, or of both. What stands in no row was not run."
    )
    return f"## transformers and torch\n\n{text}\n\n{table}"


def _said(releases: Sequence[Column], outcome: str, heading: str) -> str:
    """What the cells of this outcome say, each sentence once for all releases that say it."""
    by_sentence: dict[tuple[str, str], list[str]] = defaultdict(list)
    for column in releases:
        for name, cell in column.cells.items():
            if cell.outcome == outcome and cell.says:
                by_sentence[name, cell.says].append(_name(column))
    lines = [f"- {name} with {_and(names)}: {says}\n" for (name, says), names in by_sentence.items()]
    return f"{heading}:\n\n" + "".join(lines) if lines else ""


def _name(column: Column) -> str:
    return f"megatron-core {column.megatron_core}"


def _and(words: Iterable[str]) -> str:
    *most, last = dict.fromkeys(words)
    return f"{', '.join(most)} and {last}" if most else last


def _changes(releases: Sequence[Column]) -> Iterator[str]:
    """A paragraph for each release, about what is not as in the one before it."""
    for before, after in itertools.pairwise(releases):
        lines = [_change(name, before.cells[name], after.cells[name]) for name in titles()]
        found = "".join(lines) or "No outcome changes.\n"
        yield f"**{_name(after)}**, compared with {_name(before)}:\n\n{found}"


def _change(name: str, before: Cell, after: Cell) -> str:
    """A line on one row, empty where the outcome is the same for the same reason."""
    if (before.outcome, before.known) == (after.outcome, after.known):
        return ""
    verb = {"right": "mends"}.get(after.outcome, "breaks" if before.outcome == "right" else "changes")
    return f"- {verb} {name}. Before: {_outcome(before)}. Now: {_outcome(after)}.\n"


def _outcome(cell: Cell) -> str:
    what = {bug["id"]: bug["what"] for bug in known_bugs()}
    return f"{cell.outcome} ({'; '.join(what[name] for name in cell.known)})" if cell.known else cell.outcome


def main(given: Sequence[str]) -> int:
    """`python -m ci.versions RESULTS`: read what releases left there, and write data and page. Without: the page anew."""
    try:
        measured = columns(Path(given[0])) if given else load()
    except junit.UnreadableResults as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if given:
        save(measured)
    writing.write(PAGE, page(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
