"""`python -m tests.workflows` where what it runs with is not there."""

from __future__ import annotations

import pytest

from tests.workflows import __main__ as command
from validation.case.errors import ExitCode


def test_without_node_one_sentence_says_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the tests say it; nothing is started."""
    monkeypatch.setattr(command, "node_is_there", lambda: False)
    assert command.main() == ExitCode.ENVIRONMENT
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "error: Node.js 20 and GitHub's packages are needed: npm ci --prefix tests/workflows\n"
