"""A rank that adds up a number over gloo with the others, and needs no megatron-core."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from validation.run.report import RankReport


def rank(case: str, folder: str, reference: str, timeout: float, keep: str, plugin: str = "") -> None:
    """`case` is what comes behind the sum: `ends`, or `hangs` after a file in the folder `keep` says which process."""
    report = RankReport(Path(folder), int(os.environ["RANK"]))
    with report.last_words():
        assert (Path(reference) / "reference.json").read_text() == "{}"
        report.progress("process groups")
        dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
        number = torch.tensor([float(report.rank + 1)])
        dist.all_reduce(number)
        if case == "hangs":
            report.progress("the hard part")
            told = Path(keep, f"hangs-{report.rank}")
            told.with_suffix(".part").write_text(str(os.getpid()))
            told.with_suffix(".part").rename(told)
            while True:
                time.sleep(60)
        names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "MASTER_ADDR", "WORLD_SIZE")
        report.write({"sum": number.item(), **{name: os.environ[name] for name in names}})
        dist.destroy_process_group()
