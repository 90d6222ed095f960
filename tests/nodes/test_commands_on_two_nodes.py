"""The same command on two nodes: processes with caches and results of their own, which meet over a port."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
CASE = ("--tp", "2", "--set", "num_layers=1", "--set", "first_k_dense_replace=1", "--steps", "0")
SECONDS = 1800.0
"""Far more than two such commands take, for machines with much else to do."""


def start(folder: Path, port: int, words: Sequence[str] = ()) -> list[subprocess.Popen[str]]:
    """Node 0 and node 1."""
    started = []
    for rank in (0, 1):
        where = ("--nnodes", "2", "--node-rank", str(rank), "--rdzv-endpoint", f"127.0.0.1:{port}")
        results = ("--results", str(folder / f"results-{rank}"))
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "validation", "run", *CASE, *words, *where, *results],
                cwd=ROOT,
                env={**os.environ, "PLUMBLINE_CACHE": str(folder / f"cache-{rank}"), "PLUMBLINE_TOKEN": "of this test"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=SECONDS)
    return process.returncode, said


def test_two_nodes_end_alike_and_the_head_has_the_report(tmp_path: Path) -> None:
    head, follower = (ended(process) for process in start(tmp_path, free_port()))
    assert (head[0], follower[0]) == (0, 0), (head[1], follower[1])
    (suite,) = ElementTree.parse(next((tmp_path / "results-0").glob("*.xml"))).getroot()
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    assert [part.split(": ")[1] for part in str(properties["nodes"]).split("; ")] == ["rank 0", "rank 1"]
    assert not (tmp_path / "results-1").exists()
    assert "node 0 has ended with exit code 0" in follower[1]
    assert "Overall result: PASS" in head[1]
