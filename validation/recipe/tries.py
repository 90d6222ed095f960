"""The record of what was tried on a GPU: tried.json, which `python -m validation tried --write` makes. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from validation.case import writing

TABLE = Path(__file__).with_name("tried.json")
EQUAL, NO_EFFECT, DIFFERENT, BROKEN, REFUSED = "equal", "no effect", "different", "does not run", "refused"
VERDICTS: Mapping[str, str] = {
    EQUAL: "every check passes, and Megatron-Core runs other lines or reads the field",
    NO_EFFECT: "every check passes, and Megatron-Core runs the same lines as without it",
    DIFFERENT: "a check fails",
    BROKEN: "the run does not come to its end",
    REFUSED: "the case is refused before the start",
}
"""Each verdict, and what it says."""

Record = dict[str, dict[str, dict[str, Any]]]
"""Release -> setting -> what came of it: `verdict`, `layout`, `checks`, `lines`, `on`, and `why` if there is a reason."""


def record() -> Record:
    """What was tried, as it is kept."""
    found: Record = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    return found


def keep(found: Mapping[str, Mapping[str, object]], release: str) -> None:
    """Write what came of these settings with a release into the record; all others stay."""
    table = record()
    table[release] = {**table.get(release, {}), **{setting: dict(said) for setting, said in found.items()}}
    writing.write(TABLE, json.dumps(table, indent=1, sort_keys=True) + "\n")


def of_field(name: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Release, value and what came of it, for each value of a field that was tried."""
    for release, tried in record().items():
        for setting, found in tried.items():
            field, _, value = setting.partition("=")
            if field == name:
                yield release, value, found
