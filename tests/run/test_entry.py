"""What a rank sets before anything else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from validation.run import entry
from validation.run.report import RankReport

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


@pytest.mark.parametrize("told", [True, False])
def test_an_exception_of_which_the_report_tells_is_no_file_of_torch_s(
    told: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torch.multiprocessing writes the stack of what a process raises into TMPDIR, and leaves it there."""

    def raising(report: RankReport, *given: object) -> None:
        if told:
            report.path("error").touch()
        raise RuntimeError

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(entry, "_rank", raising)
    monkeypatch.setattr(entry, "wake_without_haste", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *given: None)
    with pytest.raises(SystemExit if told else RuntimeError) as ended:
        entry.rank("", str(tmp_path), "", 1.0, "")
    assert not told or ended.value.args == (1,)
