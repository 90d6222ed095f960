"""megatron-core since 0.19 and transformers compute the same sparse attention (DSA), forward and backward.

Neither is compared by `run` yet. This is what a comparison can be held to.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.findings.reproductions import missing, release


def test_both_libraries_compute_the_same() -> None:
    """The same keys are chosen, in float64; neither gives the indexer a gradient, without its loss."""
    version = release()
    if version != "main" and tuple(map(int, version.split(".")[:2])) < (0, 19):
        pytest.skip(f"megatron-core {version} has no attention that chooses HuggingFace's keys; 0.19 has it (Python 3.12)")
    if reason := missing():
        pytest.skip(reason)
    command = [sys.executable, "-W", "ignore", "-m", "tests.families.sparse_attention"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert len(said["differences"]) == 9
    assert max(said["differences"].values()) < 1e-13
    assert not said["indexer has a gradient"]
