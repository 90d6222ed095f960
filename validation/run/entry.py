"""Entry points of the processes that are started, light to import for the process that starts them.

The functions are sent by name; torch, transformers and megatron-core are imported where they run (the fork server has
them already), not where they are named.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from validation.case.errors import ExitCode
from validation.run.report import RankReport


def rank(
    case: str, run_folder: str, reference_folder: str, timeout: float, keep: str, plugin: str = "", state: str = ""
) -> None:
    """Every rank of a case."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started the rank is interrupted, and ends it
    wake_without_haste()
    report = RankReport(Path(run_folder), int(os.environ["RANK"]))
    try:
        _rank(report, case, run_folder, reference_folder, timeout, keep, plugin, state)
    except Exception:
        if not report.path("error").exists():
            raise
        # torch would write the stack, which the report has, to a file in TMPDIR that nobody deletes.
        sys.exit(1)


def _rank(report: RankReport, case: str, run_folder: str, *others: Any) -> None:
    with report.importing():
        # warm is there already in a child of the fork server, and mends megatron-core in a process that was started cold.
        from validation.run import preload

        preload.check()
        from validation.run import worker

    worker.rank(case, run_folder, *others)


def ahead(cases: Sequence[str], sending: Any) -> None:
    """What is asked before there are ranks."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once, and silently, with whoever asked
    from validation.run import absent, ahead, preload

    with contextlib.suppress(Exception):  # the ranks will say it
        try:
            preload.check()
        except ImportError as error:
            ahead.say(sending, ExitCode.ENVIRONMENT, absent.lacking(error) or "")
            return
        ahead.answer(cases, sending)


def wake_without_haste() -> None:
    """Have no thread of this rank take the core from another of its threads, or of its neighbours', when it wakes.

    A thread of gloo's that a message wakes wants its connection's lock, and goes round until it has it: it would take the core
    from the very thread that holds it. Where ranks are more than cores that was a tenth of all their time.
    https://github.com/pytorch/gloo/blob/main/gloo/transport/tcp/pair.cc
    """
    with contextlib.suppress(AttributeError, OSError):  # only Linux has it, and a sandbox may forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
