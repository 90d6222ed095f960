"""Entry points of the processes that are started, light to import for the process that starts them.

The functions are sent by name; torch, transformers and megatron-core are imported where they run (the fork server has
them already), not where they are named.
"""

from __future__ import annotations


def rank(case: str, run_folder: str, reference_folder: str, timeout: float, keep: str, plugin: str = "") -> None:
    """Every rank of a case."""
    # warm is there already in a child of the fork server, and mends megatron-core in a process that was started cold.
    from validation.run import warm, worker  # noqa: F401

    worker.rank(case, run_folder, reference_folder, timeout, keep, plugin)
