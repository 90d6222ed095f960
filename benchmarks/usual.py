"""One case the usual way: a torchrun of its own, everything imported in every rank, the reference computed again.

    torchrun --nproc-per-node 2 benchmarks/usual.py '<case as JSON>' FOLDER

The side that `layouts.py` measures against. It computes and compares exactly what `python -m validation run` does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.update({"PLUMBLINE_TRANSPORT": "gloo", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})


def main(case_text: str, folder: Path) -> None:
    """Compute the reference in rank 0 while the others wait, then run the case."""
    import torch
    from torch.distributed import TCPStore  # type: ignore[attr-defined] # torch exports it only in part

    from validation.case.case import Case
    from validation.reference import compute
    from validation.run import entry, warm, worker  # noqa: F401 - warm mends megatron-core
    from validation.run.report import RankReport

    case, report = Case.from_json(case_text), RankReport(folder, int(os.environ["RANK"]))
    place = folder / "reference"
    if report.rank == 0:
        stored = compute.compute(case, folder / "home", torch.device("cpu"), report.progress)
        place.write_text(str(stored.folder))
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False)
    store.set(f"ready-{report.rank}", "1")
    store.wait(["ready-0"])
    entry.wake_without_haste()
    report.write(worker._findings(case, place.read_text(), report, timeout=600.0, keep="", named="", state=""))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
