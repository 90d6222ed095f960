"""Entry point of the ranks that compute log-probabilities, light to import for the process that starts them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from validation.run.entry import wake_without_haste
from validation.run.report import RankReport


def rank(case: str, run_folder: str, batch: str, temperature: float, timeout: float) -> None:
    """Every rank: the forward pass of `case` over the sequences in the file `batch`, logits divided by the temperature."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started the rank is interrupted, and ends it
    wake_without_haste()
    with RankReport(Path(run_folder), int(os.environ["RANK"])).importing():
        from validation.run import preload

        preload.check()
        from validation.rollout import worker

    worker.rank(case, run_folder, Path(batch), temperature, timeout)
