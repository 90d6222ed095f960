"""A batch has positions that do not count, however few tokens it has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from validation.case.case import DEFAULT_SEED, Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.reference.batch import make_batch

CASE = Case("tiny", TINY.model, Layout(), "fp64", "local", "gloo", DEFAULT_SEED, 1, 1, 4)


@pytest.mark.parametrize("seed", range(1, 9))
def test_of_four_tokens_one_does_not_count_and_others_do(seed: int) -> None:
    """What is divided by the number of tokens in place of those that count would look right."""
    mask = make_batch(replace(CASE, seed=seed)).mask
    assert not mask.all()
    assert mask.any()
