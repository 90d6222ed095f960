"""The indexer rotates pairs that belong to the other family.

DeepSeek-V3.2 rotates halves, GLM-5 neighbours.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, SPARSE, Fault

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="the indexer rotates pairs that belong to the other family",
    sources=(
        f"{CORE}/issues/2733",
        "https://github.com/vllm-project/vllm-ascend/pull/4641",
    ),
    first="layers.0.indexer.query",
    since="0.19",
    numbers=SPARSE,
)


def configure(case: Case, config: Any) -> None:
    config.dsa_indexer_rope_interleaved = not config.dsa_indexer_rope_interleaved
