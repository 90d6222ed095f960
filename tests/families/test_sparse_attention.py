"""Sparse attention (DSA) is compared with a megatron-core that computes it as transformers does, and refused with others.

`nox -s parity_other` runs this with the newest release that has it, or the newest that has it not.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.findings.reproductions import release
from validation.case.errors import ExitCode
from validation.case.sparse import too_old

SMALL = ("num_hidden_layers=2", "index_topk=8", "index_n_heads=4", "index_head_dim=48")


def validation(*words: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    done = subprocess.run([sys.executable, "-m", "validation", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_sound_layouts_pass_and_each_planted_error_is_found(tmp_path: Path) -> None:
    """At the check that its file names: what is wrong behind it is not blamed."""
    version, results = release(), ("--results", str(tmp_path / "results"))
    run = ("run", *(word for one in SMALL for word in ("--set", one)), *results)
    faults = ("faults", "--only", "S", *results)
    if version != "main" and too_old(version):
        code, said = validation(*run, "--layouts", "single")
        assert (code, said.count("megatron-core")) == (ExitCode.ENVIRONMENT, 1)
        assert "rotates other elements of the indexer" in said or "has no sparse attention" in said
        code, said = validation(*faults)
        assert (code, f"megatron-core {version} has no sound case of it; 0.19 and later have one" in said) == (2, True)
        return
    code, said = validation(*run, "--layouts", "single,tp2", "--steps", "1", "--self-test")
    assert code == ExitCode.PASS, said
    (planted,) = (tmp_path / "results").glob("self-test-*.xml")
    assert 'name="Planted defect seen: key choice"' in planted.read_text(encoding="utf-8")
    code, said = validation(*faults)
    assert code == ExitCode.PASS, said
    assert "3 faults, 3 caught, 3 localised, 0 false alarms" in said
