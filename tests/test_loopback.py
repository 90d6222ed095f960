"""A machine whose processes cannot reach each other says so before anything starts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from validation import loopback
from validation.case.errors import EnvironmentMissing
from validation.run import launch, prepare
from validation.run.options import parsed


def test_this_machine_has_one() -> None:
    assert loopback.problem() is None


def _unshared() -> bool:
    return shutil.which("unshare") is not None and subprocess.run(["unshare", "-rn", "true"], check=False).returncode == 0


@pytest.mark.skipif(not _unshared(), reason="no network namespace can be made here")
def test_a_network_namespace_without_one_has_a_problem() -> None:
    """The interface is there and down, as a container without a network has it."""
    asked = [sys.executable, "-c", "from validation import loopback; print(loopback.problem())"]
    done = subprocess.run(
        ["unshare", "-rn", *asked], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True, timeout=1800
    )
    assert done.stdout.strip() not in ("", "None")


def test_a_run_ends_before_it_starts_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loopback, "problem", lambda: "Network is unreachable")
    monkeypatch.setattr(launch, "prepare", lambda transport, steps, compiles: None)
    monkeypatch.setattr(launch, "warm_up", lambda: pytest.fail("it started the ranks' server"))
    with pytest.raises(EnvironmentMissing, match=r"127\.0\.0\.1 \(Network is unreachable\).*`ip link set lo up`"):
        prepare.prepare(parsed(["--results", str(tmp_path)]))
