"""A command that the process of all tests runs prints and ends as one that has a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.conftest import command, warm


@pytest.mark.parametrize("words", [["run", "--help"], ["run", "--no-such-option"], ["run", "--tp", "3"]], ids=" ".join)
def test_both_print_and_end_alike(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output and error apart, in the environment of the test."""
    monkeypatch.setenv("COLUMNS", "60")
    words = [*words, "--results", str(tmp_path / "results")]
    own, shared = command(words, tmp_path), warm(words, tmp_path)
    assert (shared.returncode, shared.stdout, shared.stderr) == (own.returncode, own.stdout, own.stderr)
    assert own.stdout + own.stderr
