"""What stands in the pages and follows from the code is current."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.made.blocks import BLOCKS, current, named, pages
from docs.made.commands import of_pipeline, of_validation
from validation.case.errors import ExitCode
from validation.case.failures import KINDS
from validation.case.preset import PRESETS


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_a_page_is_what_the_code_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == current(text), f"write docs/{page.name} anew: python -m docs.made"


def test_every_block_stands_in_one_page() -> None:
    found = [name for page in pages() for name in named(page.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(BLOCKS)


def test_a_block_is_made_anew_and_what_stands_around_it_stays() -> None:
    text = "before\n<!-- made: exit codes -->\nold\n<!-- end -->\nafter\n"
    made = current(text)
    assert made.startswith("before\n<!-- made: exit codes -->\n\n| code |")
    assert made.endswith("|\n\n<!-- end -->\nafter\n")
    assert "old" not in made
    assert current(made) == made
    with pytest.raises(KeyError, match="no such"):
        current("<!-- made: no such -->\n<!-- end -->\n")


def test_options_are_those_of_the_parsers() -> None:
    run = of_validation("run")
    for option in (
        "`--layouts tp2,pp2`",
        "`--seed SEED`",
        "`-q`, `--quiet`",
        "`--only NAME`",
        "`--debug`",
        "`--timeout SECONDS`",
    ):
        assert f"| {option} |" in run
    assert "--case-timeout" not in run, "the help does not show it either"
    assert "+distributed" in run
    assert "| `DIR` |" not in of_validation("convert")
    assert "| `A` |" in of_validation("compare")
    assert "`--manifest" in of_pipeline()
    assert re.findall("^## (.*)", of_pipeline(), re.MULTILINE)[:2] == ["matrix", "manifest"]


def test_lists_that_are_closed_are_whole() -> None:
    assert all(f"| {int(code)} |" in BLOCKS["exit codes"]() for code in ExitCode)
    assert all(f"| `{kind}` |" in BLOCKS["failures"]() for kind in KINDS)
    assert all(f"`{name}`" in BLOCKS["presets"]() for name in PRESETS)


def test_the_pages_do_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default that is the number of CPUs here would be another elsewhere."""
    import importlib
    import os

    from validation.convert import options

    before = {name: make() for name, make in BLOCKS.items()}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(61)))
    try:
        importlib.reload(options)
        assert {name: make() for name, make in BLOCKS.items()} == before
    finally:
        monkeypatch.undo()
        importlib.reload(options)
