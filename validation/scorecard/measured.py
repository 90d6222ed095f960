"""What runs of the catalogue found, as files of JSON keep it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from validation.scorecard.judge import Clean, Outcome


@dataclass(frozen=True)
class Measured:
    """What one run of the whole catalogue found. `machine` says what ran."""

    machine: str
    seconds: float
    outcomes: tuple[Outcome, ...]
    clean: tuple[Clean, ...]


def load(data: Path) -> Measured:
    """What a file holds."""
    content = json.loads(data.read_text(encoding="utf-8"))
    found = [Outcome(**_numbered(one)) for one in content["outcomes"]]
    clean = [Clean(**{**one, "failing": tuple(one["failing"])}) for one in content["clean"]]
    return Measured(content["machine"], content["seconds"], tuple(found), tuple(clean))


def _numbered(one: dict[str, Any]) -> dict[str, Any]:
    """What JSON has no number for."""
    return {key: math.nan if value is None else value for key, value in one.items()}


def saved(measured: Measured) -> str:
    """What a file holds of these."""
    content = asdict(measured)
    for one in content["outcomes"]:
        one.update({key: None for key, value in one.items() if isinstance(value, float) and not math.isfinite(value)})
    return json.dumps(content, indent=1) + "\n"
