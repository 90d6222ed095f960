"""The options of `inspect`. No torch."""

from __future__ import annotations

from typing import Any

from validation.case.empty import given_path


def add_command(commands: Any) -> None:
    """Add `inspect` to the commands of `python -m validation`."""
    found = commands.add_parser("inspect", help="what a checkpoint folder holds, what is odd, and which commands would work")
    found.add_argument("folder", metavar="DIR", type=given_path, help="a HuggingFace folder, or a Megatron checkpoint")
