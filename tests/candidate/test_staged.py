"""The staged transport against gloo, collective by collective, in real processes; and on what gloo has not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.candidate.collectives import LIKE_GLOO, OWN, TAKES_TWO, made
from tests.gpu.conftest import needs_gpu

ROOT = Path(__file__).parents[2]
Found = list[dict[str, tuple[list[Tensor], list[Tensor]]]]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((2, "cpu"), id="2 ranks"),
        pytest.param((4, "cpu"), id="4 ranks"),
        pytest.param((4, "cuda"), id="4 ranks on a GPU", marks=[pytest.mark.gpu, needs_gpu]),
    ],
)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of 2 or 4 ranks got: for each collective over staged, and over gloo."""
    size, device = request.param
    return ran(size, device, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", id="on a GPU", marks=[pytest.mark.gpu, needs_gpu])])
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The same of a single rank."""
    return ran(1, request.param, tmp_path_factory.mktemp("alone"))


def ran(size: int, device: str, folder: Path) -> Found:
    """What each of the ranks leaves."""
    command = [sys.executable, "-m", "tests.candidate.collectives", str(size), str(folder), device]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert ended.returncode == 0, ended.stderr
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(size)]


def own(ranks: Found, name: str) -> list[list[Tensor]]:
    return [found[name][0] for found in ranks]


@pytest.mark.parametrize("name", LIKE_GLOO)
def test_the_same_comes_of_it_as_over_gloo(ranks: Found, name: str) -> None:
    for found in ranks:
        staged, gloo = found[name]
        assert len(staged) == len(gloo)
        for ours, theirs in zip(staged, gloo, strict=True):
            # Only the order of a sum of four may differ.
            torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in LIKE_GLOO if name not in TAKES_TWO])
def test_a_rank_alone_gets_what_it_would_over_gloo(alone: Found, name: str) -> None:
    """To the bit: nothing is added to anything."""
    staged, gloo = alone[0][name]
    assert len(staged) == len(gloo)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(staged, gloo, strict=True))


def test_a_rank_alone_has_its_own_averages_and_sums(alone: Found) -> None:
    """What gloo has not, too, and in 16 bits."""
    (found,) = alone
    assert all(
        torch.equal(*pair)
        for pair in zip(found["averages"][0], (made(0, 4), made(0, 2), made(0, 4, dtype=torch.int64)), strict=True)
    )
    for index, dtype in ((0, torch.bfloat16), (2, torch.float16)):
        assert torch.equal(found["sums_in_16_bits"][0][index], made(0, 256, dtype=dtype))
        assert torch.equal(found["sums_in_16_bits"][0][index + 1], made(0, 64, dtype=dtype))
    before, after = found["nothing_arrives_before_it_is_waited_for"][0]
    assert torch.equal(before, after)


def test_averages_are_sums_divided_by_the_number_of_ranks(ranks: Found) -> None:
    size = len(ranks)
    scattered: Any = sum(made(rank, 2 * size) for rank in range(size)) / size
    whole = sum(made(rank, 4, dtype=torch.int64) for rank in range(size))
    assert isinstance(whole, Tensor)
    for rank, (tensor, part, integers) in enumerate(own(ranks, "averages")):
        torch.testing.assert_close(tensor, sum(made(other, 4) for other in range(size)) / size)
        torch.testing.assert_close(part, scattered[2 * rank : 2 * rank + 2])
        assert torch.equal(integers, whole.div(size, rounding_mode="trunc"))


def test_sums_in_16_bits_are_rounded_once(ranks: Found) -> None:
    """The sum in fp32 of numbers of 16 bits is exact to within what one rounding to 16 bits leaves."""
    size = len(ranks)
    for index, dtype in ((0, torch.bfloat16), (2, torch.float16)):
        once = sum(made(rank, 256, dtype=dtype).float() for rank in range(size))
        parts = sum(made(rank, 64 * size, dtype=dtype).float() for rank in range(size))
        again = made(0, 256, dtype=dtype)
        for rank in range(1, size):
            again = again + made(rank, 256, dtype=dtype)
        assert isinstance(once, Tensor)
        assert isinstance(parts, Tensor)
        for rank, found in enumerate(own(ranks, "sums_in_16_bits")):
            assert torch.equal(found[index], once.to(dtype))
            assert torch.equal(found[index + 1], parts[64 * rank : 64 * rank + 64].to(dtype))
        assert size == 2 or not torch.equal(again, once.to(dtype))  # rounding after every rank would have been seen


def test_ranks_may_hold_unequal_parts(ranks: Found) -> None:
    size = len(ranks)
    for rank, found in enumerate(own(ranks, "uneven_gather_and_scatter")):
        for by in range(size):
            assert torch.equal(found[by], made(by, by + 1, 2))
        torch.testing.assert_close(found[size], sum(made(by, rank + 1, 2) for by in range(size)))
    for rank, found in enumerate(own(ranks, "all_to_all_of_a_list")):
        assert all(torch.equal(found[by], made(by, by + rank, dtype=torch.bfloat16)) for by in range(size))


def test_what_is_coalesced_on_a_device_has_one_handle(ranks: Found) -> None:
    size = len(ranks)
    for first, second in own(ranks, "coalesced_on_a_device"):
        assert torch.equal(first, torch.cat([made(rank, 2) for rank in range(size)]))
        assert second.tolist() == list(range(size))


def test_a_tensor_stays_as_it_is_until_the_collective_is_waited_for(ranks: Found) -> None:
    for rank, (before, after) in enumerate(own(ranks, "nothing_arrives_before_it_is_waited_for")):
        assert torch.equal(before, made(rank, 4))
        torch.testing.assert_close(after, sum(made(other, 4) for other in range(len(ranks))))


def test_a_handle_may_be_waited_for_again(ranks: Found) -> None:
    size = len(ranks)
    mean: Any = sum(made(other, 4) for other in range(size)) / size
    for rank, (received, averaged) in enumerate(own(ranks, "waited_for_again")):
        assert torch.equal(received, made((rank - 1) % size, 4))
        torch.testing.assert_close(averaged, mean)


def test_autograd_sees_nothing_of_a_collective(ranks: Found) -> None:
    """As over nccl: what a collective wrote into a saved tensor is what the backward pass reads."""
    for gradient, leaf in own(ranks, "a_saved_tensor_may_be_reduced"):
        torch.testing.assert_close(gradient, sum(made(other, 4) for other in range(len(ranks))) + made(1, 4))
        assert torch.equal(leaf, made(0, 4))


def test_groups_do_not_disturb_each_other(ranks: Found) -> None:
    size = len(ranks)
    everyone: Any = sum(made(other, 3) for other in range(size))
    for rank, (half, gloo, brief) in enumerate(own(ranks, "several_groups")):
        first = rank * 2 // size * size // 2
        torch.testing.assert_close(half, sum(made(other, 3) for other in range(first, first + size // 2)))
        torch.testing.assert_close(gloo, everyone)
        torch.testing.assert_close(brief, everyone * size)


def test_a_rank_that_does_not_come_is_a_time_out(ranks: Found) -> None:
    assert [found[0].item() for found in own(ranks, "a_rank_that_does_not_come")] == [1] + [0] * (len(ranks) - 1)


def test_every_collective_is_looked_at() -> None:
    looked_at = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in OWN if f'"{name}"' not in looked_at] == []
