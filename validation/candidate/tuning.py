"""Triton's kernels with the block sizes that they name first, and not with those that win a race.

Transformer Engine's fused permutation and megatron-core's fused rotary embedding have seven or eight configurations a kernel.
Triton compiles them all and times each for 125 ms, in every process and for every new shape. Ranks that share a card wait for
each other meanwhile: eight took 108 s for a recipe that takes 26 s without that. And which configuration wins is chance, by
which a run could differ from its repetition in the last bits.
"""

from __future__ import annotations

from typing import Any


def take_the_first() -> None:
    """Have no configuration of a kernel be measured in this process. Nothing happens without Triton.

    https://github.com/triton-lang/triton/blob/v3.6.0/python/triton/runtime/autotuner.py
    """
    try:
        from triton.runtime import autotuner
    except ImportError:
        return
    vars(autotuner)["Autotuner"]._bench = _unmeasured


def _unmeasured(self: Any, *arguments: Any, config: Any, **others: Any) -> list[float]:
    """All take the same time, so that the first of them is the fastest."""
    return [0.0]
