"""What Slurm calls nodes, and where they are: its names need not be those of machines. No torch."""

from __future__ import annotations

import re
import socket
import subprocess

from validation.case.errors import UsageError
from validation.case.strangers import shown

_SECONDS = 20
_FIRST = re.compile(r"([\w.-]*)(?:\[([\w.]+)[^\]]*\])?")


def first(names: str) -> str:
    """`n01` of `n[01-04,9],other`. Raises UsageError."""
    found = _FIRST.match(names)
    if found is None or not found[0]:
        raise UsageError(f"$SLURM_STEP_NODELIST is {shown(names)}, which names no node")
    return found[1] + (found[2] or "").partition("-")[0]


def address(names: str) -> str:
    """Of the first of these nodes: its name if that leads anywhere, else what the controller knows. Raises UsageError."""
    node = first(names)
    try:
        socket.getaddrinfo(node, None)
    except OSError:
        return _as_configured(node)
    return node


def _as_configured(node: str) -> str:
    try:
        command = ["scontrol", "--oneliner", "show", "node", node]
        said = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        said = ""
    found = re.search(r"\bNodeAddr=(\S+)", said)
    if found is None:
        raise UsageError(
            f"the name {node} of Slurm's first node leads nowhere, and scontrol does not say its address; "
            "name the nodes with --nnodes, --node-rank and --rdzv-endpoint"
        )
    return found[1]
