"""What the ranks of a case printed, a plugin's or a layer spec's own lines among it: torch elastic keeps it in files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from validation.case.plural import many

MOST = 200
"""Lines that are shown; the file has all."""


def printed(folder: Path) -> Iterator[str]:
    """Where the output of all ranks is, and the lines of rank 0; nothing where no rank printed any. `folder` is the run's."""
    logs = folder / "logs"
    if not any(path.stat().st_size for path in logs.glob("*/attempt_*/*/stdout.log")):
        return
    yield f"Printed in the ranks: {logs} has it, and what rank 0 printed is"
    for path in sorted(logs.glob("*/attempt_*/0/stdout.log")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        yield from (f"    {line}" for line in lines[:MOST])
        if len(lines) > MOST:
            yield f"    ... and {many(len(lines) - MOST, 'more line')}"
