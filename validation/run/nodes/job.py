"""One run of a case on several nodes, as the head leads it."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.case import tree
from validation.case.errors import InfrastructureError
from validation.reference import store
from validation.run import launch, watch
from validation.run import plugin as plugins
from validation.run.launch import Broken, RunBroke
from validation.run.nodes import agent, interface
from validation.run.nodes.channel import Lost, Message
from validation.run.nodes.files import Incoming
from validation.run.nodes.shares import Share, at, divided
from validation.run.options import Settings

if TYPE_CHECKING:
    from validation.run.nodes.head import Head, Node

OF_USER, OF_TREE, NAMED = "user", "tree", "named"
"""How a plugin is named for a node where files may lie elsewhere: the command's, one in Plumbline's own tree, or a module."""
_LAST = 60.0
"""Seconds for nodes to send what their ranks have left, when the run has ended."""
_LEFT = re.compile(r"rank-\d{1,6}\.(?:json|error|stacks|progress)|logs/node-\d{1,5}/attempt_0/\d{1,6}/stderr\.log")
"""What a node may send."""


class Job:
    """The ranks of one case: its own and those of other nodes, of which it takes in what they leave."""

    def __init__(self, head: Head, settings: Settings, ranks: int, folder: Path, timeout: float) -> None:
        self._head, self._settings, self._ranks, self._folder, self._timeout = head, settings, ranks, folder, timeout
        self.name = secrets.token_hex(8)
        self._shares = divided(ranks, head.place.count)
        self._incoming = {share.node: Incoming() for share in self._shares[1:]}
        self._ended: dict[int, list[tuple[int, int]]] = {}
        self._unstarted: dict[int, str] = {}
        self._stopped: set[int] = set()
        self._killed = False
        self._gone: list[Node] = []
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._watch: watch.Watch | None = None
        self._finished = threading.Event()
        self._reference = Path()
        self._vanished: int | None = None

    def run(
        self, entry: Callable[..., None], arguments: tuple[Any, ...], progress: Callable[[str], None]
    ) -> list[dict[str, Any]]:
        """Run it; what each rank has found. Raises RunBroke."""
        if len(self._shares) == 1:
            return launch.launch(entry, arguments, self._ranks, self._folder, self._timeout, progress)
        self._reference = Path(arguments[2])
        self._head.jobs[self.name] = self
        own = self._shares[0]
        failures: list[tuple[int, int]] = []
        error: Exception | None = None
        try:
            with watch.watched(self._folder, own.count, self._timeout, progress) as watching:
                self._watch = watching
                try:
                    self._start(entry, arguments, own, watching)
                except Exception as raised:  # elastic's own errors have no common base
                    error, failures = raised, launch.failures(raised)
                self._finished.set()
                self._bring_in(failed=error is not None)
            return self._reports(failures, error)
        finally:
            del self._head.jobs[self.name]

    def _start(self, entry: Callable[..., None], arguments: tuple[Any, ...], own: Share, over: watch.Watch) -> None:
        nodes = [self._head.nodes[share.node] for share in self._shares[1:]]
        if gone := next((node for node in nodes if node.lost), None):
            self.lost(gone)
            raise Lost(gone.lost)
        address = nodes[0].channel.own
        group = agent.Group(0, len(self._shares), address, launch.meeting_place(address), self._over)
        case, _, _, timeout, keep, plugin, *_ = arguments
        digests, wanted = store.contents(self._reference), self._reference.name.partition("-")[0]
        for share, node in zip(self._shares[1:], nodes, strict=True):
            node.channel.say(
                "job",
                job=self.name,
                case=case,
                timeout=timeout,
                keep=keep,
                plugin=self._portable(plugin),
                first=share.first,
                count=share.count,
                group=share.node,
                groups=len(self._shares),
                port=group.port,
                reference={"key": wanted, "folder": str(self._reference), "digests": digests},
            )
        variables = interface.variables(address)
        agent.run(group, agent.with_interface, (variables, entry, *arguments), own.count, self._folder, over)

    def _portable(self, plugin: str) -> dict[str, str]:
        """The plugin, for another node."""
        if not plugin or plugin == plugins.absolute(self._settings.plugin):
            return {OF_USER: ""} if plugin else {NAMED: ""}
        root = f"{tree.ROOT}/"
        return {OF_TREE: plugin.removeprefix(root)} if plugin.startswith(root) else {NAMED: plugin}

    def take(self, node: Node, said: Message) -> None:
        """A message of a node about this run. Raises Lost for one that makes no sense."""
        if said["kind"] == "file":
            self._incoming[node.rank].begin(said, self._folder, _LEFT)
        elif said["kind"] == "wants":
            threading.Thread(target=self._send_reference, args=(node,), name="reference", daemon=True).start()
        else:
            failures = [(int(rank), int(code)) for rank, code in said["failures"]]
            with self._changed:
                self._vanished = said["vanished"] if self._vanished is None else self._vanished
                self._ended[node.rank] = failures
                if said["stopped"]:
                    self._stopped.add(node.rank)
                if said["broken"] and not failures and not said["stopped"]:
                    self._unstarted[node.rank] = str(said["broken"])
                self._changed.notify_all()
            if failures or said["broken"]:
                self._break()

    def piece(self, node: int, data: bytes) -> None:
        """Of the file that this node sends."""
        self._incoming[node].piece(data)

    def _send_reference(self, node: Node) -> None:
        try:
            for name in store.contents(self._reference):
                node.channel.send_file(self._reference / name, name, job=self.name)
            node.channel.say("sent", job=self.name)
        except (Lost, OSError) as error:
            node.channel.close()  # which is how the node is lost to the run
            node.lost = node.lost or f"the reference could not be sent to it: {error}"

    def lost(self, node: Node) -> None:
        """A node is gone, perhaps one of this run."""
        if any(share.node == node.rank for share in self._shares):
            with self._changed:
                self._gone.append(node)
                self._changed.notify_all()
            self._break()

    def _break(self) -> None:
        """Ranks of another node have failed: these here would wait for them. They get a moment to say what they know."""

        def end() -> None:
            self._finished.wait(watch.GRACE)
            self._over.set()
            if self._watch is not None and not self._finished.is_set():
                self._killed = True
                self._watch.kill()

        threading.Thread(target=end, name="end", daemon=True).start()

    def _bring_in(self, failed: bool) -> None:
        """Wait until every other node has sent what its ranks have left."""
        wanted = {share.node for share in self._shares[1:]}
        end = time.monotonic() + _LAST
        if failed:
            for node in (self._head.nodes[number] for number in wanted):
                if not node.lost:
                    self._say_stop(node)
        with self._changed:
            while wanted - self._ended.keys() - {node.rank for node in self._gone} and end > time.monotonic():
                self._changed.wait(end - time.monotonic())

    def _say_stop(self, node: Node) -> None:
        try:
            node.channel.say("stop", job=self.name)
        except Lost:
            self.lost(node)

    def _reports(self, own: list[tuple[int, int]], error: Exception | None) -> list[dict[str, Any]]:
        if self._gone and not self._whole():
            raise RunBroke(self._without(self._gone[0]))
        told = {rank for failures in self._ended.values() for rank, _ in failures}
        if self._vanished is not None and self._vanished not in told:
            doing = watch.last_step(self._folder, self._vanished) or "start"
            sentence = f"rank {self._vanished} ended without a report in '{doing}'"
            raise RunBroke(self._with_nodes(Broken(self._vanished, sentence, self._stacks())))
        if self._unstarted:
            number, reason = next(iter(self._unstarted.items()))
            share = next(share for share in self._shares if share.node == number)
            sentence = f"{self._words(number)} could not start {share.words}: {reason}"
            raise RunBroke(Broken(share.first, sentence, self._stacks()))
        # Ranks that were ended because of others are not to blame.
        by_themselves = [*([] if self._killed else [own]), *(self._ended[node] for node in self._ended.keys() - self._stopped)]
        found = [failure for failures in self._ended.values() for failure in failures]
        late = sorted({share.node for share in self._shares[1:]} - self._ended.keys() - {node.rank for node in self._gone})
        if error is not None or found:
            # Clocks of nodes differ, so that times are not compared: a rank that was killed is nearer to the cause.
            to_blame = [failure for failures in by_themselves for failure in failures] or [*own, *found]
            failures = sorted(to_blame, key=lambda failure: failure[1] >= 0)
            if self._watch is None:
                raise InfrastructureError("the run ended before this node's ranks were there") from error
            broken = launch.post_mortem(self._folder, self._ranks, self._timeout, self._watch, failures, error)
            raise RunBroke(self._with_nodes(broken))
        if late:
            share = next(share for share in self._shares if share.node == late[0])
            sentence = f"{self._words(late[0])} did not say how {share.words} ended"
            raise RunBroke(Broken(share.first, sentence, self._stacks()))
        return launch.reports(self._folder, self._ranks)

    def _whole(self) -> bool:
        return all((self._folder / f"rank-{rank}.json").exists() for rank in range(self._ranks))

    def _without(self, gone: Node) -> Broken:
        """How the run ended whose node is gone: with what its ranks were last heard to do."""
        share = next(share for share in self._shares if share.node == gone.rank)
        steps = gone.steps.get(self.name, {})
        doing = "; ".join(f"rank {rank} in '{steps.get(str(rank)) or 'start'}'" for rank in share.ranks)
        return Broken(share.first, f"{gone.words} was lost with {share.words}: {gone.lost} ({doing})", self._stacks())

    def _stacks(self) -> str:
        return launch.stacks(self._folder, self._ranks)

    def _with_nodes(self, broken: Broken) -> Broken:
        """The same with the node that has the rank; of no single rank, with every other node's."""
        share = at(broken.rank, self._shares)
        named = [share] if share else list(self._shares)
        words = "; ".join(f"{one.words} on {self._words(one.node)}" for one in named)
        return replace(broken, sentence=f"{broken.sentence} ({words})")

    def _words(self, node: int) -> str:
        return self._head.nodes[node].words if node else f"node 0 ({self._head.name})"
