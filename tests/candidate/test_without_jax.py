"""Transformer Engine is imported for torch alone."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

core = importlib.import_module("tests.core")

PACKAGE = """
try:
    from . import jax
except ImportError:
    jax = None
"""
"""The package's own `__init__`, as far as this matters."""


def test_the_part_for_jax_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "transformer_engine").mkdir()
    (tmp_path / "transformer_engine" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "transformer_engine" / "jax.py").write_text("raise AssertionError('JAX was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformer_engine"]:
        monkeypatch.delitem(sys.modules, name)
    core.platform._leave_out_jax()
    try:
        assert importlib.import_module("transformer_engine").jax is None
    finally:
        for name in ("transformer_engine", "transformer_engine.jax"):
            sys.modules.pop(name, None)
