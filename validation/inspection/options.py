"""The options of `inspect`. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """Add `inspect` to the commands of `python -m validation`."""
    found = commands.add_parser("inspect", help="what a checkpoint folder holds, what is odd, and which commands would work")
    found.add_argument("folder", metavar="DIR", type=Path, help="a HuggingFace folder, or a Megatron checkpoint")
