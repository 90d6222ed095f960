"""The families of models: those that are compared, and those that are refused."""

from __future__ import annotations

from docs.made.tables import code, table
from validation.case.families import FAMILIES, REFUSED


def compared() -> str:
    """A row for each family that is compared."""
    rows = [(one.title, code(one.model_type), code(one.reference), one.differs) for one in FAMILIES.values()]
    return table(("family", "model_type", "transformers' class", "beside DeepSeek-V3"), rows)


def refused() -> str:
    """A row for each that is not, with what is missing."""
    rows = [(one.title, code(name), one.part, code(one.near)) for name, one in REFUSED.items()]
    return table(("family", "model_type", "why", "nearest family"), rows)
