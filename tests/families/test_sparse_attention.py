"""Sparse attention (DSA) is compared with a megatron-core that computes it as transformers does, and refused with others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.findings.reproductions import missing, release
from validation.case.errors import ExitCode
from validation.case.sparse import too_old

PLUGIN = Path(__file__).with_name("exchanged_rotation.py")
SMALL = ("num_hidden_layers=2", "index_topk=8", "index_n_heads=4", "index_head_dim=48")


def run(tmp_path: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of a small case with an indexer."""
    command = [sys.executable, "-m", "validation", "run", *words, *(word for one in SMALL for word in ("--set", one))]
    command += ["--results", str(tmp_path / "results"), "--no-self-test"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_sound_layouts_pass_and_another_rotation_is_found(tmp_path: Path) -> None:
    """At the indexer's query: what is wrong behind it is not blamed."""
    version = release()
    if version != "main" and too_old(version):
        code, said = run(tmp_path, "--layouts", "single")
        assert (code, said.count("megatron-core")) == (ExitCode.ENVIRONMENT, 1)
        assert "rotates other elements of the indexer" in said or "has no sparse attention" in said
        return
    if reason := missing():
        pytest.skip(reason)
    code, said = run(tmp_path, "--layouts", "single,tp2", "--steps", "1")
    assert code == ExitCode.PASS, said
    code, said = run(tmp_path, "--layouts", "single", "--steps", "1", "--plugin", str(PLUGIN))
    assert code == ExitCode.FAIL
    assert re.search(r"^FAIL: (.*?) - ", said, re.MULTILINE)[1] == "Layer 0 Indexer Query"  # type: ignore[index]
