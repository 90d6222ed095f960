"""What is named by mistake as a layer spec."""

from __future__ import annotations

from typing import Any


def one_parameter(config: Any) -> Any:
    """Lacks the virtual pipeline stage."""


def nothing(config: Any, vp_stage: int | None) -> None:
    """Returns no spec."""


def three_parameters(config: Any, vp_stage: int | None, more: Any) -> Any:
    """Asks for more than a spec is given."""
