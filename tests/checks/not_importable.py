"""A module whose own import fails."""

raise ImportError("no licence")
