"""What Plumbline knows of an item that pytest has collected: its case, its planted defect, its section."""

from __future__ import annotations

from typing import Any

from validation.checks.parity import Parity
from validation.checks.planted import Planted


def parity_of(item: Any) -> Parity | None:
    """What a check asks about its case; None for a user's test that asks nothing."""
    found = item.callspec.params.get("parity") if hasattr(item, "callspec") else None
    return found if isinstance(found, Parity) else None


def planted_of(item: Any) -> Planted | None:
    """The planted defect that a check of the self-test is about; None for every other check."""
    found = item.callspec.params.get("planted") if hasattr(item, "callspec") else None
    return found if isinstance(found, Planted) else None


def has_a_case(item: Any) -> bool:
    """False for what pytest makes of a check with nothing to check: one item without parameters, to be skipped."""
    asked = {"parity": Parity, "planted": Planted}
    given = item.callspec.params if hasattr(item, "callspec") else {}
    return all(isinstance(given[name], kind) for name, kind in asked.items() if name in given)


def section_of(item: Any) -> tuple[int, str]:
    """Where a check stands in the report, and under which heading: its module's SECTION, or with the user's own."""
    section: tuple[int, str] = getattr(item.module, "SECTION", (75, "Own Checks"))
    return section
