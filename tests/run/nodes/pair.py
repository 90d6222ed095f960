"""A head and a node that follows it, in one process: each with a cache of its own, and no folder in common."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.run.nodes import light
from validation.case.errors import PlumblineError
from validation.reference import store
from validation.run.nodes.channel import Lost
from validation.run.nodes.follower import Follower
from validation.run.nodes.head import Head
from validation.run.options import Settings, parsed

KEY = "0123456789abcdef01234567"
TIMEOUT = 120.0
"""Seconds; a run that ends when it should gets nowhere near."""


def settings(rank: int, port: int, home: Path, *words: str, nodes: int = 2, timeout: float = TIMEOUT) -> Settings:
    """Those of a node, of layout tp2 or with other `words`."""
    where = ("--nnodes", str(nodes), "--node-rank", str(rank), "--rdzv-endpoint", f"127.0.0.1:{port}")
    return parsed((*(words or ("--tp", "2")), *where, "--timeout", str(timeout)), home)


@dataclass
class Pair:
    """Both, and what the follower has ended with."""

    head: Head
    folder: Path
    reference: Path
    end: list[Any] = field(default_factory=list)

    def launch(self, end: str, folder: Path | None = None) -> list[dict[str, Any]]:
        """Two ranks, one on each node, of which rank 1 ends as `end` says. Rank 0 has `folder` for its own."""
        folder = folder or Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
        arguments = (end, str(folder), str(self.reference), TIMEOUT, "", "")
        return self.head.launch(light.rank, arguments, 2, folder, TIMEOUT)


def stored(home: Path) -> Path:
    """A reference that is none, as it lies in a cache."""
    texts = {"reference.json": "{}", "batch.safetensors": "tokens", "empty.safetensors": ""}

    def fill(folder: Path) -> None:
        for name, text in texts.items():
            (folder / name).write_text(text)

    made = home / "made"
    made.mkdir(parents=True)
    fill(made)
    return store.take(KEY, store.contents(made), home, fill).folder


@contextlib.contextmanager
def pair(folder: Path, silence: float = TIMEOUT) -> Iterator[Pair]:
    """Both have met; the follower's thread follows."""
    port = free_port()
    head = Head(settings(0, port, folder / "head"), "", silence)
    follower = Follower(settings(1, port, folder / "follower"), "", silence)
    found = Pair(head, folder, stored(folder / "head"))

    def follow() -> None:
        try:
            found.end.append(follower.follow())
        except (Lost, PlumblineError) as error:
            found.end.append(error)
        finally:
            follower.close()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        head.gather(TIMEOUT)
        yield found
    finally:
        head.over(0)
        thread.join()
