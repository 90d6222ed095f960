"""The other end of validation.run.references: `python -m validation.run.refer` reads what to compute, and computes it."""

from __future__ import annotations

import gc

# Before what is imported next makes objects by the million.
gc.set_threshold(20_000, 20, 20)

from validation.case import interpreter  # noqa: E402

interpreter.settle()

import contextlib  # noqa: E402
import ctypes  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

if __name__ == "__main__" and sys.argv[1:]:
    # transformers and megatron-core import these, too.
    with contextlib.suppress(ImportError):
        import torch._dynamo
        import torch.distributed.tensor
    from validation.run import forked

    gc.freeze()  # what is imported stays: the collector of either process leaves the pages alone that they share
    forked.serve(sys.argv[1])

from validation.case.case import ON_CPU, Case  # noqa: E402

if __name__ == "__main__" and os.environ.get("PLUMBLINE_TRANSPORT", ON_CPU[0]) not in ON_CPU:
    from validation.candidate import first_use

    # What is imported next leaves the GPU idle; the truth is computed first, and most floors are in bf16.
    first_use.ahead(0, torch.float64, torch.bfloat16)

from validation.cache import locks  # noqa: E402
from validation.case.memory import stays_on_card  # noqa: E402
from validation.reference import compute  # noqa: E402
from validation.run.report import STAYS, RankReport  # noqa: E402


def reference(case_text: str, folder: str, home: str, threads: int, on_host: bool) -> None:
    """Compute one reference; what comes of it is in `folder`, as what comes of a rank is.

    On a GPU with room for it the truth stays there, unless it belongs `on_host`; the folder then has a file STAYS.
    """
    report = RankReport(Path(folder), 0)
    with report.last_words():
        torch.set_num_threads(threads)
        case = Case.from_json(case_text)
        device = torch.device("cpu") if case.on_cpu else torch.device("cuda", 0)
        stays = not (case.on_cpu or on_host) and stays_on_card(case, torch.cuda.mem_get_info(device)[0])
        if stays:
            report.path(STAYS).touch()
        stored = compute.compute(case, Path(home), device, report.progress, stays)
        report.write({"folder": str(stored.folder)})
    if torch.cuda.is_initialized() or threads > 1:
        _give_back()


def _give_back() -> None:
    """Models are full of cycles, and the ranks want the memory now: on the CPU, too, where the C library would keep it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError):  # glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    """A line of JSON each until there are no more; one that fails has left word of it in its folder."""
    for line in sys.stdin:
        # Whoever asked for the one before has found it by now, and uses it.
        locks.let_all_go()
        asked = json.loads(line)
        try:
            reference(asked["case"], asked["folder"], asked["home"], asked["threads"], asked["on_host"])
        except Exception:
            if not RankReport(Path(asked["folder"]), 0).path("error").exists():
                raise  # the disk has no room for a word: whoever asked sees this process end


if __name__ == "__main__":
    main()
