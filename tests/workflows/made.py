"""Results of sessions that never ran: what a green run of each leaves, by the manifest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from ci import junit
from ci.expected import Expected, Manifest, load
from ci.junit import Check, Suite
from ci.table import rows

ROOT = Path(__file__).parents[2]
COMMIT = "c0ffee" + "0" * 34


def everything(path: Path) -> Manifest:
    """What `python -m ci manifest` writes of every session that some event runs."""
    asked = [word for row in rows() if row.when for word in ("--session", row.session)]
    command = [sys.executable, "-m", "ci", "manifest", *asked, "--output", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return load(path)


def green(manifest: Manifest, folder: Path) -> None:
    """Every session's results, each in a folder of its own."""
    for expected in manifest.suites:
        junit.write(folder / expected.session / expected.file, suite(expected))


def suite(expected: Expected) -> Suite:
    """A testsuite in which all is right."""
    ranks = ",".join(str(rank) for rank in range(expected.ranks))
    numbers = {"rel_error": "1e-15", "tolerance": "1e-10", "max_diff": "1e-15", "avg_diff": "1e-16", "ranks": ranks}
    checks = tuple(Check(owner, name, "pass", properties=numbers) for owner, name in expected.checks)
    places = {f"rank_{rank}_place": "tp 0" for rank in range(expected.ranks)}
    properties = {**expected.properties, **expected.minimum, **places, "commit": COMMIT, "dirty": "false"}
    return Suite(expected.file.removesuffix(".xml"), checks, properties, seconds=1.0, timestamp="2026-01-01T00:00:00")


def failing(path: Path) -> None:
    """One check of a file is wrong."""
    found = junit.read(path)
    wrong = next(number for number, check in enumerate(found.checks) if "Layer 0 Attention Output" in check.name)
    numbers = {**found.checks[wrong].properties, "rel_error": "7e-1"}
    check = replace(found.checks[wrong], status="fail", message="FAIL: relative error 7e-01 > 1e-10", properties=numbers)
    junit.write(path, replace(found, checks=(*found.checks[:wrong], check, *found.checks[wrong + 1 :])))
