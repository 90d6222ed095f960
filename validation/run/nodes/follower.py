"""Every node but the head: it comes to the head, runs its share of each case's ranks, and ends as the head does."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from validation.cache import locks
from validation.case import tree
from validation.case.errors import InfrastructureError, PlumblineError
from validation.reference import store
from validation.run import entry, launch, watch
from validation.run import plugin as plugins
from validation.run.nodes import agent, identity, interface
from validation.run.nodes import channel as channels
from validation.run.nodes.channel import Channel, Lost, Message
from validation.run.nodes.files import Incoming
from validation.run.nodes.job import OF_TREE, OF_USER
from validation.run.nodes.place import TOKEN
from validation.run.options import Settings

_POLL = 0.2
"""Seconds between two tries to reach the head, which may start later."""
_LEAVING = 10.0
"""Seconds for the ranks of a node to end when there is nobody to run them for."""


class Follower:
    """A node's line to the head, and what runs here for it."""

    def __init__(self, settings: Settings, token: str, silence: float = channels.SILENCE) -> None:
        """Reaches the head. Raises InfrastructureError if it does not come, or does not let this node in."""
        self._settings, self._silence = settings, silence
        self._channel = _reached(settings, channels.token_bytes(token))
        self._running: dict[str, Running] = {}
        self._incoming = Incoming()
        self._of_file: Running | None = None
        self._hello()

    def _hello(self) -> None:
        place, host = self._settings.place, socket.gethostname()
        about = {"identity": identity.of(self._settings), "host": host, "clock": time.time()}
        try:
            self._channel.say("hello", rank=place.rank, **about)
            answer = self._channel.hear(self._silence)
        except Lost as error:
            raise InfrastructureError(f"{_head(self._settings)} was lost: {error}") from None
        if isinstance(answer, bytes) or answer["kind"] != "welcome":
            said = answer.get("sentence", "it gives no reason") if isinstance(answer, dict) else ""
            raise InfrastructureError(f"{_head(self._settings)} does not let this node in: {said}")
        self._channel.beat(lambda: {"steps": {name: one.steps() for name, one in list(self._running.items())}})

    def cannot(self, error: PlumblineError) -> None:
        """This node cannot take part."""
        with contextlib.suppress(Lost):
            self._channel.say("cannot", sentence=str(error), code=int(error.exit_code))

    def leave(self, why: str) -> None:
        """This node is ended by somebody."""
        with contextlib.suppress(Lost):
            self._channel.say("leaving", sentence=why)

    def follow(self) -> tuple[int, str]:
        """Do what the head says until it has ended; its exit code, and its sentence if there is one. Raises Lost."""
        self._channel.say("ready")
        while True:
            said = self._channel.hear(self._silence)
            if isinstance(said, bytes):
                self._incoming.piece(said)
            elif said["kind"] == "over":
                return int(said["code"]), str(said["sentence"])
            else:
                self._obey(said)

    def _obey(self, said: Message) -> None:
        kind, name = said["kind"], str(said.get("job"))
        if kind == "job":
            running = Running(said, self._channel, self._settings)
            self._running[name] = running
            threading.Thread(target=self._run, args=(running,), name="job", daemon=True).start()
        elif (of := self._running.get(name)) is None:
            return
        elif kind == "file":
            self._incoming.begin(said, of.wanted())
        elif kind == "sent":
            of.arrived.put("")
        elif kind == "stop":
            of.stop()

    def _run(self, running: Running) -> None:
        try:
            running.run()
        except Lost:
            pass  # which the other thread hears, too
        finally:
            del self._running[running.name]

    def close(self) -> None:
        """Leave nothing running."""
        for running in list(self._running.values()):
            running.arrived.put("the run is over")
            running.stop()
        watch.kill_all()
        end = time.monotonic() + _LEAVING
        while self._running and time.monotonic() < end:
            time.sleep(_POLL)
        self._incoming.give_up()
        self._channel.close()
        locks.let_all_go()


class Running:
    """The ranks of one run that are this node's."""

    def __init__(self, said: Message, channel: Channel, settings: Settings) -> None:
        self._said, self._channel, self._settings = said, channel, settings
        self.name = str(said["job"])
        self.arrived: SimpleQueue[str] = SimpleQueue()
        self._first, self._count = int(said["first"]), int(said["count"])
        self._over = threading.Event()
        self._watch: watch.Watch | None = None
        self._wanted = Path()
        self._folder: Path | None = None

    def steps(self) -> dict[str, str]:
        """What each rank is doing."""
        folder = self._folder
        return {} if folder is None else {str(rank): watch.last_step(folder, rank) for rank in self._ranks}

    @property
    def _ranks(self) -> range:
        return range(self._first, self._first + self._count)

    def wanted(self) -> Path:
        """Where files of the reference go."""
        return self._wanted

    def stop(self) -> None:
        """End the ranks; they leave their stacks."""
        self._over.set()
        if self._watch is not None:
            self._watch.expire()

    def run(self) -> None:
        """To the end, which the head is told. Raises Lost."""
        failures: list[tuple[int, int]] = []
        broken, vanished = "", None
        with launch.run_folder() as folder:
            self._folder = folder
            try:
                with self._reference() as reference:
                    self._start(folder, reference)
            except Lost:
                raise
            except Exception as error:  # elastic's own errors have no common base
                failures, broken = launch.failures(error), repr(error)
            if self._watch is not None:
                vanished = self._watch.vanished
            self._send(folder)
            self._channel.say(
                "ended", job=self.name, failures=failures, broken=broken, vanished=vanished, stopped=self._over.is_set()
            )
            self._folder = None

    def _start(self, folder: Path, reference: Path) -> None:
        said, timeout = self._said, float(self._said["timeout"])
        with watch.watched(folder, self._count, timeout, lambda step: None, self._first) as self._watch:
            if self._over.is_set():
                self._watch.expire()
            meeting = (int(said["group"]), int(said["groups"]), self._channel.peer, int(said["port"]))
            group = agent.joined(*meeting, self._over, timeout)
            arguments = (said["case"], str(folder), str(reference), timeout, said["keep"], self._plugin())
            variables = interface.variables(self._channel.own)
            agent.run(group, agent.with_interface, (variables, entry.rank, *arguments), self._count, folder, self._watch)

    def _plugin(self) -> str:
        """The plugin where it lies here."""
        ((how, name),) = self._said["plugin"].items()
        if how == OF_USER:
            return plugins.absolute(self._settings.plugin)
        return str(tree.ROOT / name) if how == OF_TREE else str(name)

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Path]:
        """The head's reference: as it lies in a folder that both see, as this node has it stored, or sent by the head."""
        about: dict[str, Any] = self._said["reference"]
        key, digests, home = str(about["key"]), dict(about["digests"]), self._settings.home
        found = store.find_same(key, digests, home, Path(about["folder"]))
        if found is not None:
            yield found.folder
        elif key == "plumbline":  # what one rank has computed, for this run alone
            with tempfile.TemporaryDirectory(prefix="plumbline-") as folder:
                self._fetch(Path(folder))
                yield Path(folder)
        else:
            # Another case of the run may have had it sent meanwhile.
            with _one_at_a_time:
                found = store.find_same(key, digests, home, home) or store.take(key, digests, home, self._fetch)
            yield found.folder

    def _fetch(self, folder: Path) -> None:
        self._wanted = folder
        self._channel.say("wants", job=self.name)
        if reason := self.arrived.get():
            raise Lost(reason)

    def _send(self, folder: Path) -> None:
        """What the ranks have left, to the head."""
        for rank in self._ranks:
            for kind in ("json", "error", "stacks", "progress"):
                path = folder / f"rank-{rank}.{kind}"
                if path.exists():
                    self._channel.send_file(path, path.name, job=self.name)
            for path in folder.glob(f"logs/*/attempt_0/{rank - self._first}/stderr.log"):
                name = f"logs/node-{self._said['group']}/attempt_0/{rank}/stderr.log"
                self._channel.send_file(path, name, job=self.name)


_one_at_a_time = threading.Lock()


def _head(settings: Settings) -> str:
    return f"node 0 at {settings.place.endpoint}"


def _reached(settings: Settings, token: bytes) -> Channel:
    """The line to the head, which may not be there yet. Raises InfrastructureError."""
    place, end = settings.place, time.monotonic() + settings.timeout
    while True:
        try:
            left = max(0.1, end - time.monotonic())
            made = socket.create_connection((place.host, place.port), timeout=left)
            made.settimeout(None)
            return Channel(Connection(made.detach()), token, asks_first=False, patience=min(left, channels.SILENCE))
        except channels.WrongToken:
            raise InfrastructureError(
                f"{_head(settings)} has another token; set {TOKEN} to the same text on every node, or on none"
            ) from None
        except (OSError, Lost) as error:
            if time.monotonic() > end:
                raise InfrastructureError(
                    f"{_head(settings)} cannot be reached for {settings.timeout:g} s ({error}); start it there with "
                    "--node-rank 0, and let other nodes reach this port"
                ) from None
            time.sleep(_POLL)
