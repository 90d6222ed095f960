"""A plugin: the indexer of sparse attention rotates as the other family's does."""

from __future__ import annotations

from typing import Any


def configure(case: Any, config: Any) -> None:
    """Interleaved pairs instead of halves, or the other way round."""
    config.dsa_indexer_rope_interleaved = not config.dsa_indexer_rope_interleaved
