"""The rules for numbers that are no sizes: rotary settings, factors, the seed.

A rule takes the case and returns a sentence (what is wrong, and what would work instead) or None.
"""

from __future__ import annotations

import math
from typing import Any

from validation.case.case import Case
from validation.case.suggestions import join

ROPE_TYPES = ("yarn", "default")
SEEDS = 1 << 63
"""torch takes 64 bits and a sign, and each further step's batch has the next seed."""

_LIMITS: tuple[tuple[str, float, bool], ...] = (
    ("rms_norm_eps", 0, True),
    ("routed_scaling_factor", 0, False),
    ("rope_theta", 1, False),
    ("rope_factor", 0, False),
    ("beta_fast", 0, False),
    ("beta_slow", 0, False),
    ("mscale", 0, False),
    ("mscale_all_dim", 0, True),
)
"""Each number with the smallest that it may be, or that it must be more than: they are divisors, logarithms and roots, and
HuggingFace takes an mscale of 0 for none."""


def rope_is_known(case: Case) -> str | None:
    """Both sides know these kinds of rotary positions."""
    kind = case.model.rope_type
    return None if kind in ROPE_TYPES else f"rope_type {kind!r} is unknown; known are {join(ROPE_TYPES)}"


def rotary_elements_are_pairs(case: Case) -> str | None:
    """Rotary positions turn pairs of elements."""
    size = case.model.qk_rope_head_dim
    if size % 2 == 0:
        return None
    return (
        f"qk_rope_head_dim is {size}, and rotary positions turn pairs of elements; "
        f"{join([str(even) for even in (size - 1, size + 1) if even], 'or')} works"
    )


def numbers_have_a_meaning(case: Case) -> str | None:
    """None is infinite or no number, and none is below what can be computed with."""
    for name, least, itself in _LIMITS:
        value: Any = getattr(case.model, name)
        if value is None:
            continue  # a folder need not give it
        if not _is_number(value) or not (value >= least if itself else value > least):
            return f"{name} is {value!r}; it must be a number {'of at least' if itself else 'greater than'} {least:g}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def seed_fits(case: Case) -> str | None:
    """The random generators take a number of 64 bits."""
    if -SEEDS <= case.seed < SEEDS - case.training.steps:
        return None
    return f"--seed {case.seed} does not fit in 64 bits; --seed {case.seed % 10_000} works, or any number below 2**63"


RULES = (rope_is_known, rotary_elements_are_pairs, numbers_have_a_meaning, seed_fits)
