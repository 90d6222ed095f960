"""Faults that upstream's own code makes: with that code mended they change nothing, so that they show its bug and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import junit
from tests.checks.conftest import warm
from tests.faults.mended_upstream import MENDED
from validation.faults import catalogue

PLUGIN = Path(__file__).with_name("mended_upstream.py")


@pytest.mark.parametrize("name", MENDED)
def test_a_fault_of_upstreams_own_code_is_gone_when_that_is_mended(name: str, tmp_path: Path) -> None:
    (layout,) = catalogue.find(name).layouts
    words = [
        "run",
        "--layouts",
        layout,
        "--set",
        "num_hidden_layers=2",
        "--steps",
        "0",
        "--no-self-test",
        "--plugin",
        f"{PLUGIN}:{name}",
    ]
    done = warm([*words, "--results", str(tmp_path)], tmp_path / "cache")
    assert done.returncode == 0, done.stdout
    (report,) = (path for path in tmp_path.glob("*.xml"))
    checks = junit.read(report).checks
    assert len(checks) > 100
    assert {check.status for check in checks} <= {"pass", "known"}
