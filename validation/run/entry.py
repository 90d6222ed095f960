"""Entry points of the processes that are started, light to import for the process that starts them.

The functions are sent by name; torch, transformers and megatron-core are imported where they run (the fork server has
them already), not where they are named.
"""

from __future__ import annotations


def rank(case: str, run_folder: str, reference_folder: str, timeout: float, keep: str, plugin: str = "") -> None:
    """Every rank of a case."""
    from validation.run import worker

    worker.rank(case, run_folder, reference_folder, timeout, keep, plugin)
