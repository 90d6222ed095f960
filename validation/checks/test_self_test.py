"""The gate itself: a defect of each kind, planted in small cases beside the others, must be seen where it is."""

from __future__ import annotations

from validation.checks.planted import Planted

SECTION = (95, "Self-Test")


def test_planted_defect_is_seen(planted: Planted) -> None:
    """What the checks are made to find, they find."""
    planted.is_seen()
