"""What a rank sets before anything else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from validation.run import entry

_ASKED = "import os; from validation.run import entry; entry.wake_without_haste(); print(os.sched_getscheduler(0))"


def test_a_rank_is_scheduled_as_a_batch() -> None:
    """In a process of its own: it stays."""
    done = subprocess.run([sys.executable, "-c", _ASKED], cwd=Path(__file__).parents[2], capture_output=True, check=True)
    assert int(done.stdout) == os.SCHED_BATCH


@pytest.mark.parametrize("lacking", [OSError("not permitted"), AttributeError("no such function")], ids=type)
def test_it_goes_on_where_it_may_not(lacking: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that forbids it, a system that has none."""

    def refused(*given: object) -> None:
        raise lacking

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    entry.wake_without_haste()
