"""The indexer adds up negative products, too."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import SPARSE, Fault

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="the indexer adds up negative products, too",
    sources=("https://github.com/ml-explore/mlx-lm/pull/531",),
    first="layers.0.indexer.scores",
    since="0.19",
    numbers=SPARSE,
)


def configure(case: Case, config: Any) -> None:
    config.dsa_indexer_scoring_relu = False
