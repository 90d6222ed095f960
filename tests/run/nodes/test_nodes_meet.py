"""Nodes that meet, or do not: who is let in, and what is said to whom."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.run.nodes.pair import TIMEOUT, settings
from validation.case.errors import EnvironmentMissing, ExitCode, InfrastructureError, PlumblineError, UsageError
from validation.run.nodes import identity
from validation.run.nodes.channel import Channel, Lost, token_bytes
from validation.run.nodes.follower import Follower
from validation.run.nodes.head import Head
from validation.run.nodes.place import Place

SOON = 0.2
"""Seconds after which a head that nobody comes to gives up."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Digests of sources are looked at elsewhere."""
    monkeypatch.setattr(identity, "_sources", lambda folder: "abc")
    return tmp_path


class Met:
    """A head, and the followers of a test, all of which are closed in the end."""

    def __init__(self, home: Path, nodes: int = 2) -> None:
        self.home, self.port = home, free_port()
        self.head = Head(settings(0, self.port, home, nodes=nodes), "secret")
        self.nodes = nodes
        self.followers: list[Follower] = []

    def comes(self, rank: int, *words: str, token: str = "secret", nodes: int | None = None) -> Follower:
        """A node with this number, the command's words or others, the run's token or another."""
        given = settings(rank, self.port, self.home, *words, nodes=nodes or self.nodes)
        self.followers.append(Follower(given, token))
        return self.followers[-1]

    def close(self) -> None:
        """End all of it."""
        for follower in self.followers:
            follower.close()
        self.head.over(0)


@pytest.fixture
def met(home: Path) -> Iterator[Met]:
    found = Met(home)
    yield found
    found.close()


def refusal(met: Met, *given: Any, **named: Any) -> str:
    with pytest.raises(InfrastructureError) as raised:
        met.comes(*given, **named)
    assert raised.value.exit_code == ExitCode.INFRASTRUCTURE
    return str(raised.value)


def end_of(met: Met, timeout: float = SOON) -> str:
    with pytest.raises(InfrastructureError) as raised:
        met.head.gather(timeout)
    return str(raised.value)


def test_every_node_gets_the_heads_exit_code(met: Met) -> None:
    ends: list[tuple[int, str]] = []
    node = met.comes(1)

    def follow() -> None:
        ends.append(node.follow())
        node.close()

    thread = threading.Thread(target=follow)
    thread.start()
    met.head.gather(TIMEOUT)
    met.head.over(1, "three checks failed")
    thread.join()
    assert ends == [(1, "three checks failed")]


def test_a_node_that_comes_when_the_head_has_ended_ends_with_it(met: Met) -> None:
    """It would else look for the head until the time is up."""
    thread = threading.Thread(target=met.head.over, args=(3, "no room on the disk"))
    thread.start()
    node = met.comes(1)
    assert node.follow() == (3, "no room on the disk")
    node.close()
    thread.join()


def test_a_node_that_never_comes_is_named_with_what_to_do(met: Met) -> None:
    said = end_of(met)
    assert said.startswith(f"node 1 of 2 did not come to 127.0.0.1:{met.port} within {SOON} s; start the same command there")


@pytest.mark.parametrize("says", [b"", b"\x00\x00\x00\x05hello"])
def test_another_program_in_the_place_of_the_head_keeps_no_node_waiting(home: Path, says: bytes) -> None:
    """One that says nothing, and one that says what no node says."""
    came: list[socket.socket] = []

    def greet(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                came.append(listening.accept()[0])
                came[-1].sendall(says)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=greet, args=(listening,), daemon=True)
        thread.start()
        with pytest.raises(InfrastructureError, match=r"another program listens there, or a node that hangs"):
            Follower(settings(1, listening.getsockname()[1], home, timeout=SOON), "")
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    for end in came:
        end.close()


def test_a_head_that_is_not_there_is_named_with_what_to_do(home: Path) -> None:
    port = free_port()
    with pytest.raises(
        InfrastructureError, match=rf"^node 0 at 127\.0\.0\.1:{port} cannot be reached for {SOON} s .*--node-rank 0"
    ):
        Follower(settings(1, port, home, timeout=SOON), "")


def test_another_token_is_refused_on_both_sides(met: Met) -> None:
    """A stranger does not end the run: the right node may still come, and if not, the head says who did."""
    assert "has another token; set PLUMBLINE_TOKEN to the same text on every node" in refusal(met, 1, token="other")
    end = time.monotonic() + TIMEOUT
    while not met.head._refused and time.monotonic() < end:
        time.sleep(0.001)
    assert "refused: a node with another token (PLUMBLINE_TOKEN)" in end_of(met)


def test_the_number_of_a_node_that_is_here_is_refused(met: Met) -> None:
    """The first goes on."""
    first = met.comes(1)
    assert "has the number of node 1 (" in refusal(met, 1)
    first._channel.say("ready")
    met.head.gather(TIMEOUT)


@pytest.mark.parametrize(
    ("words", "nodes", "said"),
    [
        (("--tp", "2", "--seed", "7"), 2, "has cases "),
        (("--layouts", "tp2,pp2"), 2, "start the same command on every node"),
        ((), 3, "has nodes 3 and node 0 has 2; start the same command on every node"),
    ],
)
def test_another_command_ends_both(met: Met, words: tuple[str, ...], nodes: int, said: str) -> None:
    """The head at once: with that node nothing can be compared."""
    assert said in refusal(met, 1, *words, nodes=nodes)
    assert said in end_of(met, TIMEOUT)


@pytest.mark.parametrize("name", ["torch", "megatron-core", "Python", "Plumbline"])
def test_another_version_ends_both(met: Met, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    own = identity.of(settings(0, met.port, met.home))
    monkeypatch.setattr(identity, "of", lambda settings: {**own, name: "0.0.1"})
    assert f"has {name} 0.0.1 and node 0 has {own[name]}; install the same on every node" in refusal(met, 1)
    assert f"has {name} 0.0.1" in end_of(met, TIMEOUT)


def test_what_a_node_lacks_ends_both_with_its_code(met: Met) -> None:
    met.comes(1).cannot(EnvironmentMissing("no GPU was found"))
    with pytest.raises(PlumblineError, match=r"^node 1 \(.*\): no GPU was found$") as raised:
        met.head.gather(TIMEOUT)
    assert raised.value.exit_code == ExitCode.ENVIRONMENT


@pytest.mark.parametrize("apart", [-3600.0, 3600.0, 1.0])
def test_clocks_that_are_apart_are_told_and_decide_nothing(met: Met, monkeypatch: pytest.MonkeyPatch, apart: float) -> None:
    now, own = time.time(), threading.current_thread()
    monkeypatch.setattr(time, "time", lambda: now + (apart if threading.current_thread() is own else 0))
    met.comes(1)._channel.say("ready")
    met.head.gather(TIMEOUT)
    assert len(met.head.notes) == (abs(apart) > 5)
    assert all(f"is {apart:+.0f} s off" in note for note in met.head.notes)


def test_a_node_that_is_lost_before_the_run_ends_it(met: Met) -> None:
    met.comes(1).close()
    assert "node 1 (" in (said := end_of(met, TIMEOUT))
    assert "was lost before the run: its connection was closed" in said


def test_a_node_that_says_nothing_any_more_is_lost(home: Path) -> None:
    """A cut network closes no connection: silence is all that there is."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours, theirs = socket.create_connection(listening.getsockname()), listening.accept()[0]
    ends: list[Channel] = []
    thread = threading.Thread(target=lambda: ends.append(Channel(Connection(theirs.detach()), b"t", asks_first=False)))
    thread.start()
    channel = Channel(Connection(ours.detach()), b"t", asks_first=True)
    thread.join()
    with pytest.raises(Lost, match=r"^nothing was heard of it for 0\.05 s$"):
        channel.hear(0.05)
    for end in (channel, *ends):
        end.close()


def test_who_connects_and_says_nothing_keeps_nobody_waiting(met: Met) -> None:
    """A port scanner, or a health check of a cluster."""
    with socket.create_connection(("127.0.0.1", met.port)):
        met.comes(1)._channel.say("ready")
        met.head.gather(TIMEOUT)


@pytest.mark.parametrize("said", [b"no frame at all", b"\x00\x00\x00\x05hello", b"\xff" * 64])
def test_who_says_what_no_node_says_is_not_let_in(met: Met, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", met.port)) as stranger:
        stranger.sendall(said)
        met.comes(1)._channel.say("ready")
        met.head.gather(TIMEOUT)


def test_a_port_that_is_taken_and_an_address_of_another_machine_are_refused(home: Path) -> None:
    said = r"node 0 cannot listen there \(Address already in use\); give --rdzv-endpoint"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match=said):
        Head(settings(0, taken.getsockname()[1], home), "")
    elsewhere = replace(settings(0, free_port(), home), place=Place(2, 0, "192.0.2.1", 29500))
    with pytest.raises(UsageError, match=r"node 0 cannot listen there \(Cannot assign requested address\)"):
        Head(elsewhere, "")


def test_without_a_token_nodes_have_the_same(home: Path) -> None:
    assert token_bytes("") == token_bytes("")
    assert token_bytes("a") != token_bytes("b")
