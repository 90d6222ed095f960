"""Original_max_position_embeddings is not forwarded.

It moves the band of rotary dimensions between interpolated and not.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import BRIDGE, Fault

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="original_max_position_embeddings is not forwarded",
    sources=(f"{BRIDGE}/pull/3128",),
    first="layers.0.attention.query",
)


def configure(case: Case, config: Any) -> None:
    config.original_max_position_embeddings = 32768
