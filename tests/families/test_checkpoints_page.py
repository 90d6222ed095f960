"""What docs/checkpoints.md says of the folders that people complained of is what its commands print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.families.brought import BROUGHT, FAMILIES, write
from validation.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its first two lines."""
    part = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    table = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("| "))] for line in table[2:]]


COMPLAINTS = rows("Complaints")
QUICK = [row for row in COMPLAINTS if not row[2].startswith("`run ")]
"""Those whose commands start no ranks. The others were run for the page."""


def test_every_folder_and_every_family_has_a_row() -> None:
    assert {row[1].strip("`") for row in COMPLAINTS} == set(BROUGHT)
    assert sorted(row[1].strip("`") for row in rows("Families")) == FAMILIES


@pytest.mark.parametrize("row", QUICK, ids=[f"{row[1]} {row[2].split()[0]}" for row in QUICK])
def test_a_command_says_what_the_page_says(
    row: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And ends with 2 where it refuses."""
    monkeypatch.chdir(tmp_path)
    _, name, command, code, said = row
    write(name.strip("`"), tmp_path / "DIR")
    extra = ["--jobs", "1"] if command.startswith("`convert") else []
    assert main([*command.strip("`").split(), *extra]) == int(code)
    told = capsys.readouterr()
    assert said.strip("`") in told.out + told.err
