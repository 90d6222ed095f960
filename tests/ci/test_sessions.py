"""docs/matrix.md is what the table says."""

from __future__ import annotations

from dataclasses import replace
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
    assert capsys.readouterr().out == "matrix.md is not what matrix.yaml says: write it with python -m ci sessions\n"
    assert "gpus-8" in sessions.PAGE.read_text(encoding="utf-8"), "a page that is asked about is not written"


def test_the_installed_package_has_no_page_to_write(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("validation.case.tree.INSTALLED", True)
    assert main(["sessions"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: sessions: works on the pages in docs/, which the installed package has not"
    )


def test_every_session_of_the_table_is_on_the_page() -> None:
    text = sessions.page(rows(TABLE), tools(TABLE))
    names = [row.session for row in rows(TABLE)] + [tool.session for tool in tools(TABLE)]
    assert [name for name in names if f"| {name} |" not in text] == []


def test_a_session_that_no_event_runs_is_run_by_hand() -> None:
    """With Transformer Engine it says so; on the CPU it has no number of GPUs."""
    row = replace(rows(TABLE)[0], session="a", when=(), runner=("b", "c"), layouts=("tp2", "pp2"), implementation="te")
    tool = replace(tools(TABLE)[0], session="d", does="does", when=("nightly",), runner=("b",), timeout=3)
    text = sessions.page([row], [tool])
    assert f"\n| a | tp2 pp2 | tiny | fp64, te | gloo | b, c |  | by hand | {row.timeout} |\n" in text
    assert text.endswith("| --- | --- | --- | --- | --- | --- |\n| d | does | b |  | nightly | 3 |\n")
