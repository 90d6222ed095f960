"""Node 0: lets the other nodes in, has them run their ranks, and says at the end how it went."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from validation.case.errors import EnvironmentMissing, InfrastructureError, PlumblineError, UsageError
from validation.case.plural import many
from validation.run.nodes import channel as channels
from validation.run.nodes import identity
from validation.run.nodes.channel import Channel, Lost, Message
from validation.run.nodes.job import Job
from validation.run.nodes.place import TOKEN, Place
from validation.run.options import Settings

_CLOCKS_APART = 5.0
"""Seconds from which on a difference of clocks is worth a line."""
_LATE = 15.0
"""Seconds for which a head that cannot run waits for nodes to come, which would look for it for long."""
_GOODBYE = 10.0
"""Seconds to wait at the end for nodes to have heard of it."""


@dataclass(eq=False)
class Node:
    """Another node: its number, its name, and the line to it. `steps` is what its ranks were last doing, by job and rank.

    `sending` is the job of which it sends a file.
    """

    rank: int
    name: str
    channel: Channel
    welcome: bool = False
    ready: bool = False
    lost: str = ""
    gone: threading.Event = field(default_factory=threading.Event)
    steps: dict[str, dict[str, str]] = field(default_factory=dict)
    sending: str = ""

    @property
    def words(self) -> str:
        """For a reader."""
        return f"node {self.rank} ({self.name})"


class Head:
    """Listens for the other nodes from the moment it is made."""

    def __init__(self, settings: Settings, token: str, silence: float = channels.SILENCE) -> None:
        """Raises UsageError if this machine is not where the others look for node 0."""
        self.place, self._settings, self._silence = settings.place, settings, silence
        self._token = channels.token_bytes(token)
        self.name = socket.gethostname()
        self._own = identity.of(settings)
        self._changed = threading.Condition()
        self.nodes: dict[int, Node] = {}
        self.jobs: dict[str, Job] = {}
        self._refused: list[str] = []
        self._given_up = False
        self._fatal: PlumblineError | None = None
        self.notes: list[str] = []
        self._listening = _listening(self.place)
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._let_in, name="nodes", daemon=True).start()

    def _let_in(self) -> None:
        """A thread for each that comes: one that says nothing keeps nobody waiting."""
        while True:
            try:
                found, _ = self._listening.accept()
            except OSError:
                return
            connection = Connection(found.detach())
            threading.Thread(target=self._talk, args=(connection,), name="node", daemon=True).start()

    def _talk(self, connection: Connection) -> None:
        """Everything that one node says, until it is lost."""
        try:
            node = self._admitted(Channel(connection, self._token, asks_first=True))
        except channels.WrongToken:
            self._note_refused(f"a node with another token ({TOKEN})")
            return
        except Lost:
            return
        if node is None:
            return
        node.channel.beat()
        try:
            while True:
                self._take(node, node.channel.hear(self._silence))
        except (Lost, OSError, KeyError, TypeError, ValueError) as error:
            self._lose(node, str(error) if isinstance(error, Lost) else f"it said what cannot be used: {error!r}")

    def _admitted(self, channel: Channel) -> Node | None:
        """The node that has come, unless it is not one of this run."""
        hello = channel.hear(self._silence)
        if isinstance(hello, bytes) or hello["kind"] != "hello" or not isinstance(hello.get("rank"), int):
            channel.close()
            return None
        node = Node(hello["rank"], str(hello.get("host", "?"))[:100], channel)
        sentence, fatal = self._objection(node, hello)
        if sentence:
            channel.say("refused", sentence=sentence)
            self._note_refused(sentence)
            if fatal:
                self._end(InfrastructureError(sentence))
            return None
        apart = float(hello.get("clock", 0.0)) - time.time()
        if abs(apart) > _CLOCKS_APART:
            self.notes.append(f"note: the clock of {node.words} is {apart:+.0f} s off; compare no times of different nodes")
        channel.say("welcome")
        with self._changed:
            node.welcome = True
            self._changed.notify_all()
        return node

    def _objection(self, node: Node, hello: Message) -> tuple[str, bool]:
        """Why it is not let in, and whether that ends the run: a stranger does not."""
        with self._changed:
            if not 0 < node.rank < self.place.count:
                return f"{node.words} is none of this run's {many(self.place.count, 'node')}", False
            if (there := self.nodes.get(node.rank)) is not None:
                return f"{node.words} has the number of {there.words}, which is here; give each node its own --node-rank", False
            has = hello.get("identity")
            said = identity.difference(self._own, has if isinstance(has, dict) else {}, node.words)
            if said:
                return said, True
            self.nodes[node.rank] = node
            return "", False

    def _take(self, node: Node, said: Message | bytes) -> None:
        if isinstance(said, bytes):
            if (job := self.jobs.get(node.sending)) is not None:
                job.piece(node.rank, said)
            return
        kind = said["kind"]
        if kind == "ready":
            with self._changed:
                node.ready = True
                self._changed.notify_all()
        elif kind == "cannot":
            self._end(_of_code(int(said["code"]), f"{node.words}: {said['sentence']}"))
        elif kind == "alive":
            node.steps |= said.get("steps", {})
        elif kind == "leaving":
            node.lost = f"it was ended ({said['sentence']})"
        elif kind == "file":
            node.sending = str(said["job"])
        if kind in ("file", "wants", "ended") and (job := self.jobs.get(str(said["job"]))) is not None:
            job.take(node, said)

    def _note_refused(self, sentence: str) -> None:
        with self._changed:
            self._refused.append(sentence)

    def _end(self, error: PlumblineError) -> None:
        with self._changed:
            self._fatal = self._fatal or error
            self._changed.notify_all()

    def _lose(self, node: Node, reason: str) -> None:
        with self._changed:
            node.lost = node.lost or reason
            node.gone.set()
            self._changed.notify_all()
        node.channel.close()
        for job in list(self.jobs.values()):
            job.lost(node)

    def gather(self, timeout: float) -> None:
        """Wait until every node is there and ready. Raises InfrastructureError, or what keeps a node from taking part."""
        end = time.monotonic() + timeout
        with self._changed:
            while self._fatal is None and (missing := self._missing()):
                gone = next((node for node in self.nodes.values() if node.lost), None)
                if gone is not None:
                    raise InfrastructureError(f"{gone.words} was lost before the run: {gone.lost}")
                if (left := end - time.monotonic()) <= 0:
                    self._given_up = True
                    raise InfrastructureError(self._who_did_not_come(missing, timeout))
                self._changed.wait(left)
            if self._fatal is not None:
                raise self._fatal

    def _missing(self) -> list[int]:
        there = {node.rank for node in self.nodes.values() if node.ready}
        return [rank for rank in range(1, self.place.count) if rank not in there]

    def _who_did_not_come(self, missing: Sequence[int], timeout: float) -> str:
        who = f"node {missing[0]}" if len(missing) == 1 else f"nodes {', '.join(map(str, missing))}"
        refused = f"; refused: {'; '.join(self._refused[:3])}" if self._refused else ""
        return (
            f"{who} of {self.place.count} did not come to {self.place.endpoint} within {timeout:g} s; start the same command "
            f"there with its own node number, and let it reach this port{refused}"
        )

    def launch(
        self,
        entry: Callable[..., None],
        arguments: tuple[Any, ...],
        ranks: int,
        folder: Path,
        timeout: float,
        progress: Callable[[str], None] = lambda step: None,
    ) -> list[dict[str, Any]]:
        """As validation.run.launch.launch, with the ranks on all nodes. Raises RunBroke."""
        job = Job(self, self._settings, ranks, folder, timeout)
        return job.run(entry, arguments, progress)

    def facts(self, ranks: int) -> dict[str, str]:
        """What a report says of where its ranks ran."""
        from validation.run.nodes.shares import divided

        names = {0: self.name, **{node.rank: node.name for node in self.nodes.values()}}
        found = divided(ranks, self.place.count)
        return {"nodes": "; ".join(f"node {one.node} {names.get(one.node, '?')}: {one.words}" for one in found)}

    def _wait_for_late_ones(self) -> None:
        end = time.monotonic() + _LATE
        with self._changed:
            while (
                sum(node.welcome for node in self.nodes.values()) < self.place.count - 1
                and self._fatal is None
                and not self._given_up
            ):
                if (left := end - time.monotonic()) <= 0:
                    return
                self._changed.wait(left)

    def over(self, code: int, sentence: str = "") -> None:
        """Tell every node with which exit code the run has ended, and leave. One that is about to come is waited for."""
        self._wait_for_late_ones()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # which ends the thread that waits there; closing alone does not
        self._listening.close()
        for node in list(self.nodes.values()):
            try:
                node.channel.say("over", code=code, sentence=sentence)
            except Lost:
                node.gone.set()
        end = time.monotonic() + _GOODBYE
        for node in list(self.nodes.values()):
            node.gone.wait(max(0.0, end - time.monotonic()))  # it closes the line when it has heard


def _of_code(code: int, sentence: str) -> PlumblineError:
    """The error that ends a run with this code."""
    kinds = (UsageError, EnvironmentMissing, InfrastructureError)
    return next((kind(sentence) for kind in kinds if kind.exit_code == code), PlumblineError(sentence))


def _listening(place: Place) -> socket.socket:
    """Where the others look for node 0. Raises UsageError."""
    port = 0 if place.agent else place.port
    try:
        found = socket.getaddrinfo(place.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(
            f"{place.host}: the name of node 0 leads nowhere ({error.strerror}); give its address with --rdzv-endpoint"
        ) from None
    said: OSError | None = None
    for family, kind, protocol, _, address in found:
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen()
        except OSError as error:
            listening.close()
            said = error
        else:
            return listening
    raise UsageError(
        f"{place.endpoint}: node 0 cannot listen there ({said.strerror if said else 'no address'}); give --rdzv-endpoint an "
        "address of the machine with node number 0, and a port that is free on it"
    )
