"""What a command's node does beside its work: lead the others, follow the head, or nothing, on a machine by itself."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

from validation.case.errors import ExitCode, InfrastructureError, PlumblineError
from validation.run import launch as launching
from validation.run.nodes.channel import Lost
from validation.run.nodes.follower import Follower
from validation.run.nodes.head import Head
from validation.run.nodes.place import TOKEN, Place
from validation.run.options import Settings


class Nodes(Protocol):
    """Where the ranks of a run run."""

    notes: list[str]

    def gather(self, timeout: float) -> None:
        """Wait until every node is there."""

    def facts(self, ranks: int) -> dict[str, str]:
        """Properties of the testsuite of a case with so many ranks."""

    @property
    def launch(self) -> Callable[..., list[dict[str, Any]]]:
        """What starts them (validation.run.launch.launch)."""


class Alone:
    """This machine alone."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def gather(self, timeout: float) -> None:
        """Nobody has to come."""

    def facts(self, ranks: int) -> dict[str, str]:
        """Nothing to say."""
        return {}

    @property
    def launch(self) -> Callable[..., list[dict[str, Any]]]:
        """On this machine."""
        return launching.launch


@dataclass
class Ending:
    """With which exit code the command ends, for the nodes that follow; a failure until it is known."""

    code: int = ExitCode.FAIL
    sentence: str = ""


@contextlib.contextmanager
def nodes_of(settings: Settings) -> Iterator[tuple[Nodes, Ending]]:
    """Within it the other nodes can come; afterwards they are told how the command has ended."""
    ending = Ending()
    if not settings.place.several or settings.manifest:
        yield Alone(), ending
        return
    token = secrets.token_hex() if settings.place.agent else os.environ.get(TOKEN, "")
    head = Head(settings, token)
    if settings.place.agent:
        _leave_word(settings.place, f"{head.port} {token}")
    try:
        yield head, ending
    except PlumblineError as error:
        ending.code, ending.sentence = int(error.exit_code), str(error)
        raise
    except KeyboardInterrupt:
        ending.code, ending.sentence = int(ExitCode.INTERRUPTED), "it was interrupted"
        raise
    finally:
        head.over(ending.code, ending.sentence)


def follow(settings: Settings, ready: Callable[[Settings], None], say: Callable[[str], None]) -> tuple[int, str]:
    """Follow the head, `ready` being what must be looked at on this machine first; exit code and sentence are the head's.

    Raises InfrastructureError if the head is lost, and what `ready` raises.
    """
    place, token = settings.place, os.environ.get(TOKEN, "")
    if place.agent:
        port, token = _word(place, settings.timeout).split()
        place = replace(place, port=int(port))
    settings = replace(settings, place=place)
    say(f"node {place.rank} of {place.count} follows node 0 at {place.endpoint}")
    follower = Follower(settings, token)
    try:
        ready(settings)
        return follower.follow()
    except Lost as error:
        raise InfrastructureError(f"node 0 at {place.endpoint} was lost: {error}; look at what it printed") from None
    except PlumblineError as error:
        follower.cannot(error)
        raise
    except KeyboardInterrupt:
        follower.leave("interrupted")
        raise
    finally:
        follower.close()


def _key() -> str:
    """Torchrun may start its processes again: then they meet anew."""
    return f"plumbline/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _leave_word(place: Place, text: str) -> None:
    _agents_store(place, 60.0).set(_key(), text)


def _word(place: Place, timeout: float) -> str:
    """What node 0 has left in the store of torchrun's agent. Raises InfrastructureError."""
    try:
        return str(_agents_store(place, timeout).get(_key()).decode())
    except RuntimeError as error:
        raise InfrastructureError(f"node 0 left no word in torchrun's store at {place.endpoint}: {error}") from None


def _agents_store(place: Place, timeout: float) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        return TCPStore(place.host, place.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout))
    except RuntimeError as error:
        raise InfrastructureError(
            f"torchrun's store at {place.endpoint} cannot be reached ({str(error).splitlines()[0]}); "
            "give --cluster dsw for this machine alone, or start torchrun on every node"
        ) from None
