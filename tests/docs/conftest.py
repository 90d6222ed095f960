"""What tests of several pages need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the plugins that the examples name."""
    for name in ("doubled_norm.py", "my_patch.py"):
        (tmp_path / name).write_text("def loaded(case, model): ...\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
