"""A GPU with too little memory: told with numbers, and with changes that would help, each of which is possible."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from tests.case.test_preflight import GIB, case, refusal
from validation.case import memory, preflight, remedies
from validation.case.case import Case
from validation.case.errors import EnvironmentMissing
from validation.case.layout import Layout
from validation.case.parameters import parameters
from validation.case.preset import MINI
from validation.case.training import Training


def on_gpus(layout: str = "tp2", transport: str = "staged", precision: str = "fp32", **changes: Any) -> Case:
    return case(layout, preset=MINI, transport=transport, precision=precision, **changes)


def refused(of: Case, card: int | None, gpus: int, share: int | None = None) -> str | None:
    """What is said of a case on a machine of so many GPUs with so many bytes free on the fullest."""
    try:
        preflight.check(of, max_ranks=8, gpus=gpus, memory=None, card=card, share=share)
    except EnvironmentMissing as error:
        return str(error)
    return None


def test_a_card_with_too_little_memory_gives_the_numbers() -> None:
    needed = memory.estimate(on_gpus(), gpus=1).card
    said = refused(on_gpus(), needed - 1, gpus=1)
    assert said is not None
    assert f"needs about {needed / GIB:.1f} GiB of GPU memory" in said
    assert "2 ranks on a card" in said
    assert f"and {(needed - 1) / GIB:.1f} GiB are free" in said
    assert refused(on_gpus(), needed, gpus=1) is None
    assert refused(on_gpus(), None, gpus=1) is None


def test_ranks_that_share_a_card_take_more_of_it_than_one() -> None:
    """With as many cards as ranks it is nccl's."""
    copies = on_gpus("dp4", "staged", "fp64", batch_size=4)
    shared, spread = (memory.estimate(copies, gpus=count).card for count in (1, 4))
    assert shared > spread
    assert spread == memory.estimate(replace(copies, transport="nccl"), gpus=4).card


def test_the_reference_computes_on_the_card_too() -> None:
    """In fp64, whatever the case's precision is: bf16 does not make it smaller. There a small truth stays on the card, too."""
    cases = [on_gpus("single", "nccl", precision) for precision in ("fp64", "bf16")]
    wide, narrow = (memory.estimate(case).card for case in cases)
    assert [memory.truth_on_card(case) > 0 for case in cases] == [False, True]
    assert narrow == wide + memory.truth_on_card(cases[1])
    assert memory.estimate(on_gpus("single", "nccl", "bf16")).rank < memory.estimate(on_gpus("single", "nccl", "fp64")).rank


def test_a_truth_stays_on_a_card_with_room_for_it() -> None:
    """A run in the precision is there beside it, and half of what is left is for other cases. Most is what steps leave."""
    small, steps = on_gpus(precision="bf16"), on_gpus(precision="bf16", training=Training(steps=2))
    needed = memory.estimate(steps).card
    assert memory.stays_on_card(small, 0)
    assert memory.truth_on_card(steps) == 0
    least = next(free for free in range(needed, 1 << 42, GIB) if memory.stays_on_card(steps, free))
    weights = sum(math.prod(one.shape) for one in parameters(steps.model).values())
    # Both moments, masters and weights of two steps, and the gradients: by 8 bytes, and by 4 and 2.
    bytes_ = 9 * 8 * weights + (2 * 14 + 2) * weights
    probes = 2 * sum(math.prod(one.shape) for one in memory._probes(steps)) * (8 + 2)
    assert 0 <= least - needed - 2 * (bytes_ + probes) < GIB
    assert memory.stays_on_card(replace(steps, precision="fp32"), least)  # which has no masters
    streamed = replace(steps, training=Training(steps=2, stream=True))
    others = (replace(steps, precision="fp64"), replace(steps, transport="gloo"), replace(steps, isolated=True), streamed)
    assert not any(memory.stays_on_card(other, 1 << 42) for other in others)
    assert memory.stays_on_card(replace(steps, upto="backward"), 0)


def test_what_is_proposed_takes_less_and_is_possible() -> None:
    """Every number of the sentence is that of the changed case."""
    whole = on_gpus("single", "nccl")
    said = remedies.remedies(whole, 1, preflight.RULES)
    changes = {
        "--set num_hidden_layers=3": replace(whole, model=replace(whole.model, num_hidden_layers=3)),
        "--set hidden_size=512": replace(whole, model=replace(whole.model, hidden_size=512)),
        "--batch-size 1": replace(whole, batch_size=1),
        "--seq-length 256": replace(whole, seq_length=256),
    }
    for words, smaller in changes.items():
        takes = memory.estimate(smaller).card
        assert f"{words} ({takes / GIB:.1f} GiB)" in said
        assert takes < memory.estimate(whole).card
        assert refused(smaller, None, gpus=1) is None
    assert "bf16" not in said  # the reference is what is large


def test_where_the_ranks_are_what_is_large_more_of_them_are_proposed_and_lower_precision() -> None:
    """On GPUs of their own, if there are as many; on one that they share the whole stays as large."""
    whole = on_gpus("single", "nccl", "fp32")
    said = remedies.remedies(whole, 2, preflight.RULES, remedies.ranks_need)
    for words, smaller in (("tp2", Layout(tp=2)), ("pp2", Layout(pp=2)), ("ep2", Layout(ep=2))):
        assert f"{words} ({memory.estimate(replace(whole, layout=smaller)).rank / GIB:.1f} GiB)" in said
    assert f"--precision bf16 ({memory.estimate(replace(whole, precision='bf16')).rank / GIB:.1f} GiB)" in said
    for impossible in (
        remedies.remedies(whole, 1, preflight.RULES, remedies.ranks_need),
        remedies.remedies(whole, 2, preflight.RULES),
    ):
        assert "tp2" not in impossible


def test_nothing_impossible_is_proposed() -> None:
    """Half of one layer, half of one sequence: a sentence remains."""
    least = on_gpus("single", "nccl", "bf16", batch_size=1, seq_length=1)
    least = replace(least, model=replace(least.model, num_hidden_layers=1, hidden_size=1))
    assert "--batch-size 0" not in remedies.remedies(least, 1, preflight.RULES)
    assert "layers=0" not in remedies.remedies(least, 1, preflight.RULES)


@pytest.mark.parametrize(
    ("transport", "share", "gpus", "said"),
    [
        ("staged", None, 1, None),
        ("staged", 2, 2, None),
        ("staged", 2, 1, r"on staged needs 2 GPUs and 1 was found; `--share-gpu 4` lets ranks share what is here"),
        ("staged", None, 0, r"on staged needs 1 GPU and no GPU was found; the same layout runs on the CPU"),
        ("nccl", None, 1, r"on nccl needs 4 GPUs and 1 was found; `--share-gpu 4` lets"),
        ("nccl", None, 3, r"on nccl needs 4 GPUs and 3 were found; `--share-gpu 2` lets"),
        ("nccl", None, 4, None),
        ("staged-cpu", None, 0, None),
    ],
)
def test_too_few_gpus_are_told_with_how_to_share_them(transport: str, share: int | None, gpus: int, said: str | None) -> None:
    found = refused(on_gpus("tp2pp2", transport), None, gpus, share)
    assert (found is None) == (said is None)
    assert said is None or re.search(said, str(found))


def test_fused_and_flash_attention_are_for_16_bits() -> None:
    for kind in ("te-fused", "te-flash"):
        said = refusal(case(implementation=kind, precision="fp32", transport="nccl"))
        assert "--precision bf16 works, or --implementation te-unfused" in str(said)
        assert refusal(case(implementation=kind, precision="bf16", transport="nccl")) is None


def test_a_lower_precision_is_offered_where_it_takes_less() -> None:
    """Below fp64 the reference is computed in fp64 and in the precision, which may take more."""
    long = replace(case("single", preset=MINI), seq_length=8192)
    assert memory.estimate(replace(long, precision="bf16")).host > memory.estimate(long).host
    said = memory.shortage(long, GIB)
    assert said is not None
    assert "--precision bf16" not in said
