"""Which fields each release of megatron-core has: recorded, so that no test and no page needs the releases themselves.

`python -m docs.made.releases 0.19.2=FOLDER ...` records the fields of the megatron-core in FOLDER, the one above
megatron/core, under this name. The record holds what each has more and less than the one before it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ci.releases import RELEASES
from validation.case import writing
from validation.case.declared import declared
from validation.case.errors import UsageError

RECORD = Path(__file__).with_name("fields_of_releases.json")
NAMES = (*dict.fromkeys(release.megatron_core for release in RELEASES), "main", "dev")
"""What is recorded, in this order: the supported releases, and upstream's two branches as they were when they were recorded."""


def recorded(path: Path = RECORD) -> dict[str, tuple[str, ...]]:
    """The full names of the fields of each release, sorted."""
    found: dict[str, tuple[str, ...]] = {}
    names: set[str] = set()
    for release, change in json.loads(path.read_text(encoding="utf-8")).items():
        names = (names | set(change["more"])) - set(change["less"])
        found[release] = tuple(sorted(names))
    return found


def write(fields: Mapping[str, Sequence[str]], path: Path = RECORD) -> None:
    """Record these, in the order of NAMES; each as its difference from the one before."""
    record, before = {}, set[str]()
    for release in sorted(fields, key=NAMES.index):
        names = set(fields[release])
        record[release] = {"more": sorted(names - before), "less": sorted(before - names)}
        before = names
    writing.write(path, json.dumps(record, indent=1) + "\n")


def main(words: Sequence[str]) -> int:
    """Add releases to the record, or take them anew."""
    try:
        found = recorded() if RECORD.exists() else {}
        for word in words:
            name, _, folder = word.partition("=")
            if name not in NAMES or not folder:
                raise UsageError(f"{word}: say NAME=FOLDER; names are {', '.join(NAMES)} (ci/releases.py)")
            found[name] = tuple(declared(Path(folder).resolve() / "megatron" / "core"))
        write(found)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
