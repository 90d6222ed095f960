"""What goes wrong between two nodes, each in a network namespace of its own: no loopback in common, and a cable to cut."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nodes import cable as cables
from tests.nodes.cable import HEAD, SPACES, ip
from tests.processes import still_there

ROOT = Path(__file__).parents[2]
SECONDS = 300.0
PORT = "29577"


@pytest.fixture(scope="module")
def cable() -> Iterator[None]:
    """Two namespaces with a cable between them; skipped where the machine gives none."""
    try:
        with cables.cable():
            yield
    except cables.NoCable as error:
        pytest.skip(str(error))


Start = Callable[..., list["subprocess.Popen[str]"]]


@pytest.fixture
def start(cable: None, tmp_path: Path) -> Iterator[Start]:
    """Starts both nodes; whatever is left of them is killed."""
    started: list[subprocess.Popen[str]] = []

    def both(end: str, silence: float = 60.0, follower: tuple[str, ...] = (), one_cache: bool = False) -> list[Any]:
        for rank, name in enumerate(SPACES):
            folder = tmp_path if one_cache else tmp_path / str(rank)
            folder.mkdir(exist_ok=True)
            words = [sys.executable, "-m", "tests.nodes.one", str(rank), HEAD, PORT, str(folder), str(silence), end]
            command = ["ip", "netns", "exec", name, *(follower if rank else ()), *words]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            started.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes))  # type: ignore[call-overload]
        return started

    yield both
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate(timeout=SECONDS)
    assert out.strip(), errors
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def wait_for_both(folder: Path) -> None:
    """Until both ranks hang, which have spoken to each other before."""
    end = time.monotonic() + SECONDS
    while not all((folder / f"hangs-{rank}").exists() for rank in (0, 1)):
        assert time.monotonic() < end
        time.sleep(0.02)


def assert_nobody_is_left(folder: Path) -> None:
    """No rank that hung lives."""
    assert still_there(*(int((folder / f"hangs-{rank}").read_text()) for rank in (0, 1))) == []


def test_ranks_talk_through_the_interface_that_reaches_the_head(start: Start) -> None:
    """They have no other: over the loopback they would not find each other. Each node has it by another name."""
    head, follower = map(said, start("ends"))
    assert (head["code"], follower["code"]) == (0, 0), (head, follower)
    assert [one["sum"] for one in head["found"]] == [3.0, 3.0]
    assert [one["GLOO_SOCKET_IFNAME"] for one in head["found"]] == ["cable0", "cable1"]
    assert [one["NCCL_SOCKET_IFNAME"] for one in head["found"]] == ["=cable0", "=cable1"]
    assert {(one["MASTER_ADDR"], one["WORLD_SIZE"]) for one in head["found"]} == {(HEAD, "2")}


def test_a_cut_cable_ends_both_nodes(start: Start, tmp_path: Path) -> None:
    """No connection is closed, and nothing is heard any more. The head says which node and rank it has lost."""
    nodes = start("hangs", silence=6.0)
    wait_for_both(tmp_path / "0")
    ip("-n", SPACES[0], "link", "set", "cable0", "down")
    try:
        head, follower = map(said, nodes)
    finally:
        ip("-n", SPACES[0], "link", "set", "cable0", "up")
    assert (head["code"], follower["code"]) == (4, 4)
    assert head["sentence"].startswith("node 1 (")
    assert "was lost with rank 1: nothing was heard of it for 6 s (rank 1 in " in head["sentence"]
    assert follower["sentence"] == "nothing was heard of it for 6 s"
    assert_nobody_is_left(tmp_path / "0")


@pytest.mark.parametrize("killed", [0, 1])
def test_a_node_that_is_killed_leaves_no_rank(start: Start, tmp_path: Path, killed: int) -> None:
    """Its own ranks end with it, though they hang, and the other node ends its own."""
    nodes = start("hangs")
    wait_for_both(tmp_path / "0")
    nodes[killed].kill()
    found = said(nodes[1 - killed])
    assert found["code"] == 4
    assert "its connection was closed" in found["sentence"]
    assert_nobody_is_left(tmp_path / "0")


def test_a_node_that_stands_still_is_lost_and_one_that_goes_on_in_time_is_not(start: Start, tmp_path: Path) -> None:
    """Stopped for good, as a machine that swaps itself to death."""
    nodes = start("hangs", silence=6.0)
    wait_for_both(tmp_path / "0")
    os.killpg(nodes[1].pid, signal.SIGSTOP)
    head = said(nodes[0])
    assert head["code"] == 4
    assert "was lost with rank 1: nothing was heard of it for 6 s" in head["sentence"]
    os.killpg(nodes[1].pid, signal.SIGCONT)
    assert said(nodes[1])["code"] == 4
    assert_nobody_is_left(tmp_path / "0")


def test_a_slow_node_is_waited_for(start: Start) -> None:
    """It gets what the others leave of a core; nothing but time is lost."""
    head, follower = map(said, start("ends", follower=("nice", "-n", "19")))
    assert (head["code"], follower["code"]) == (0, 0)


def test_two_nodes_on_one_cache_folder_have_one_reference(start: Start, tmp_path: Path) -> None:
    """As on a shared file system: nothing is sent, and nothing unfinished is left."""
    head, follower = map(said, start("ends", one_cache=True))
    assert (head["code"], follower["code"]) == (0, 0), (head, follower)
    (kept,) = (path for path in (tmp_path / "cache" / "references").iterdir() if path.is_dir())
    assert not kept.name.startswith(".")
