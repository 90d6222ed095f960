"""docs/matrix.md is what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import sessions
from ci.cli import main
from ci.table import TABLE, rows, tools


def test_the_page_is_current() -> None:
    """`python -m ci sessions` writes it."""
    assert sessions.PAGE.read_text(encoding="utf-8") == sessions.page(rows(TABLE), tools(TABLE))
    assert main(["sessions", "--check"]) == 0


def test_a_page_that_is_not_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sessions, "PAGE", tmp_path / "matrix.md")
    assert main(["sessions"]) == 0
    assert main(["sessions", "--check"]) == 0
    sessions.PAGE.write_text(sessions.PAGE.read_text(encoding="utf-8").replace("gpus-4", "gpus-8"), encoding="utf-8")
    assert main(["sessions", "--check"]) == 1
    assert "write it with python -m ci sessions" in capsys.readouterr().out


def test_every_session_of_the_table_is_on_the_page() -> None:
    text = sessions.page(rows(TABLE), tools(TABLE))
    names = [row.session for row in rows(TABLE)] + [tool.session for tool in tools(TABLE)]
    assert [name for name in names if f"| {name} |" not in text] == []
