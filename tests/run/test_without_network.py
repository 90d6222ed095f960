"""A run reaches nothing but this machine: it passes where there is no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ISOLATED = ("unshare", "--net", "--map-root-user", "sh", "-ec", 'ip link set lo up; exec "$@"', "sh")
"""Runs a command with a loopback interface alone."""


def isolated(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What came of a command."""
    environment = {**os.environ, **variables}
    return subprocess.run(
        [*ISOLATED, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )


@pytest.fixture
def no_network() -> None:
    """A namespace of the network's, or no test."""
    if not (shutil.which("unshare") and shutil.which("ip")) or isolated("true").returncode:
        pytest.skip("unshare, ip and namespaces for this user are needed: apt-get install util-linux iproute2")


def test_there_is_no_network(no_network: None) -> None:
    """1.1.1.1 is another machine; a name would say less, because none resolves."""
    done = isolated(sys.executable, "-c", "import socket; socket.create_connection(('1.1.1.1', 443), 5)")
    assert "Network is unreachable" in done.stderr


def test_a_layout_passes_without_a_network(no_network: None, tmp_path: Path) -> None:
    """Neither side asks a hub, and no variable has to say so."""
    words = (
        "run",
        "--layouts",
        "single",
        "--set",
        "num_layers=2",
        "--steps",
        "0",
        "-q",
        "--results",
        str(tmp_path / "results"),
    )
    done = isolated(
        *(sys.executable, "-m", "validation", *words),
        HOME=str(tmp_path),
        PLUMBLINE_CACHE=str(tmp_path / "cache"),
        HF_HUB_OFFLINE="",
    )
    assert done.returncode == 0, done.stderr
    assert "Overall result: PASS" in done.stdout
