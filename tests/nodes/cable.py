"""Two network namespaces with a cable between them: two machines, as far as the network goes. Needs root and the command ip."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

HEAD, OTHER = "10.77.0.1", "10.77.0.2"
SPACES = ("plumbline-a", "plumbline-b")


class NoCable(RuntimeError):
    """This machine gives no namespaces; says why."""


def ip(*words: str) -> None:
    """Iproute2's command. Raises CalledProcessError."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def cable() -> Iterator[None]:
    """Both namespaces, the first at HEAD and the second at OTHER, until the end. Raises NoCable."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        raise NoCable("network namespaces need root and the command ip")
    try:
        try:
            _lay()
        except subprocess.CalledProcessError as error:
            raise NoCable(f"no network namespaces here: {error.stderr.decode().strip()}") from error
        yield
    finally:
        for name in SPACES:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _lay() -> None:
    for name in SPACES:
        ip("netns", "add", name)
    ip("link", "add", "cable0", "netns", SPACES[0], "type", "veth", "peer", "name", "cable1", "netns", SPACES[1])
    for number, (name, address) in enumerate(zip(SPACES, (HEAD, OTHER), strict=True)):
        ip("-n", name, "addr", "add", f"{address}/24", "dev", f"cable{number}")
        for device in (f"cable{number}", "lo"):
            ip("-n", name, "link", "set", device, "up")
