"""Patterns: each is seen where it is, and not where it nearly is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from validation.case.axes import Axis, axes
from validation.case.case import Case
from validation.case.factors import factors
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.compare.difference import measure
from validation.compare.extent import extent
from validation.compare.measurement import Measurement, PieceReport
from validation.compare.pattern import Surroundings, as_said, hints, whereabouts
from validation.compare.piece import Box, slices, whole

CASE = Case("tiny", TINY.model, Layout.parse("tp2"), "fp64", "local", "gloo", 1, 4, 2, 48)
LAYER = "model.layers.1."
Change = Callable[[torch.Tensor], object]


def tensor(shape: Sequence[int]) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def piece(rank: int, candidate: torch.Tensor, right: torch.Tensor, box: Box) -> PieceReport:
    c, r = candidate[slices(box)], right[slices(box)]
    difference = measure(c, r, box)
    return PieceReport(rank, box, difference, hashlib.sha256(c.numpy().tobytes()).hexdigest(), extent(c, r, box, difference))


def measured(candidates: Sequence[torch.Tensor], right: torch.Tensor, boxes: Sequence[Box] | None = None) -> Measurement:
    """Rank i reports of candidate i, of all of it or its box."""
    boxes = boxes or [whole(right.shape)] * len(candidates)
    pieces = (piece(rank, candidate, right, box) for rank, (candidate, box) in enumerate(zip(candidates, boxes, strict=True)))
    return Measurement("probe", tuple(right.shape), tuple(pieces))


def of(name: str, change: Change, case: Case = CASE) -> tuple[str, ...]:
    """What is said of a tensor of the case, on one rank, after `change` was done to it in place."""
    known = axes(case, name)
    right = tensor([axis.size for axis in known])
    candidate = right.clone()
    change(candidate)
    return hints(measured([candidate], right), Surroundings(known, factors=factors(case)))


def add(*index: Any) -> Change:
    """Noise on a part of a tensor."""

    def added(candidate: torch.Tensor) -> None:
        generator = torch.Generator().manual_seed(2)
        candidate[index] += torch.randn(candidate[index].shape, generator=generator, dtype=torch.float64)

    return added


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("layers.1.attention.query", add(..., slice(16, None)), ("rotary dimensions only",)),
        ("layers.1.attention.key", add(..., slice(0, 16)), ("dimensions without position only",)),
        ("layers.1.attention.kv_latent", add(..., slice(16, None)), ("rotary dimensions only",)),
        ("probe_gradients/layers.1.attention.kv_latent", add(..., slice(16, None)), ("rotary dimensions only",)),
        (f"gradients/{LAYER}self_attn.kv_a_proj_with_mqa.weight", add(slice(16, None)), ("rotary dimensions only",)),
        (f"weights/{LAYER}self_attn.kv_a_proj_with_mqa.weight", add(slice(0, 16)), ("latent dimensions only",)),
        (
            f"gradients/{LAYER}self_attn.q_b_proj.weight",
            add([row for row in range(192) if row % 48 >= 16]),
            ("rotary dimensions only",),
        ),
        (
            f"gradients/{LAYER}self_attn.q_b_proj.weight",
            add(slice(48 + 16, 96)),
            ("head 1 only", "rotary dimensions only"),
        ),
        (f"gradients/{LAYER}self_attn.kv_b_proj.weight", add([*range(16, 32), *range(48, 64)]), ("value dimensions only",)),
        (f"gradients/{LAYER}self_attn.o_proj.weight", add(slice(None), slice(32, 48)), ("head 2 only",)),
        ("layers.1.attention.core", add(slice(None), slice(None), 3), ("head 3 only",)),
        (f"weights/{LAYER}mlp.experts.gate_proj.weight", add(5), ("expert 5 only",)),
        (f"steps/1/value/{LAYER}mlp.experts.gate_proj.weight", add([3, 9]), ("experts 3, 9 only",)),
        (f"gradients/{LAYER}mlp.gate.weight", add(7), ("expert 7 only",)),
        ("layers.1.output", add(slice(None), slice(12, 24)), ("positions 12:24 only",)),
        ("layers.1.output", add(2), ("sequence 2 only",)),
        (
            "layers.1.output",
            add(slice(None), slice(1, None)),
            ("every position but the first, which sees only itself: what mixes positions",),
        ),
        ("layers.1.output", add(1, 2, 3), ("one element only",)),
    ],
)
def test_a_part_with_a_meaning_is_named(name: str, change: Change, said: tuple[str, ...]) -> None:
    """What holds all of the error has a name: the reader need not know the tensor's layout."""
    assert of(name, change) == said


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("layers.1.attention.query", add(..., slice(15, None))),
        ("layers.1.attention.query", add(...)),
        (f"gradients/{LAYER}self_attn.kv_a_proj_with_mqa.weight", add(slice(15, None))),
        (f"gradients/{LAYER}self_attn.kv_a_proj_with_mqa.weight", add([20, 30])),
        (f"gradients/{LAYER}self_attn.q_b_proj.weight", add(slice(16, 49))),
        (f"gradients/{LAYER}self_attn.o_proj.weight", add(3, slice(33, 35))),
        (f"weights/{LAYER}mlp.experts.gate_proj.weight", add(slice(0, 9))),
        ("layers.1.output", add(slice(None), [1, 5, 30])),
        ("logits", add(..., slice(0, 64))),
        ("gradients/lm_head.weight", add(slice(0, 64))),
    ],
)
def test_what_is_not_confined_to_it_is_not(name: str, change: Change) -> None:
    """One row too many, too few to be no accident, or nothing that has a name."""
    assert of(name, change) == ()


def test_an_axis_is_known_for_every_dimension_of_every_tensor() -> None:
    """Of a scalar there is none."""
    assert axes(CASE, "loss") == axes(CASE, "steps/1/gradient_norm") == ()
    assert [axis.size for axis in axes(CASE, "layers.1.attention.query")] == [4, 48, 4, 48]
    assert axes(CASE, "weights/model.norm.weight") == (Axis(64),)


def scaled(constant: float) -> Change:
    return lambda candidate: candidate.mul_(constant)


@pytest.mark.parametrize(
    ("layout", "constant", "said"),
    [
        ("tp4", 4, "4 times the reference everywhere (tp or expert dp: summed or multiplied once too often)"),
        ("cp4", 0.25, "0.25 times the reference everywhere (1/cp: a sum or a factor is missing, or divided once too often)"),
        ("single", 2.5, "2.5 times the reference everywhere (routed_scaling_factor: summed or multiplied once too often)"),
        ("tp2", 1.0001, "1.0001 times the reference everywhere"),
        ("tp2", 0, "0 times the reference everywhere (never computed)"),
        ("tp2", -1, "-1 times the reference everywhere (the sign is wrong)"),
    ],
)
def test_a_constant_factor_is_named(layout: str, constant: float, said: str) -> None:
    """With the numbers of the case that it is."""
    case = replace(CASE, layout=Layout.parse(layout), micro_batch_size=4)
    (hint,) = of("layers.1.output", scaled(constant), case)
    assert hint.replace(" or expert dp", "") == said.replace(" or expert dp", "")


def test_what_is_only_nearly_a_constant_factor_is_none() -> None:
    """The projection is 0.5, but a thousandth of the error is something else."""

    def changed(candidate: torch.Tensor) -> None:
        candidate.mul_(0.5).add_(
            torch.randn(candidate.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64), alpha=1e-3
        )

    assert of("layers.1.output", changed) == ()


def test_rounding_hides_a_constant_factor_only_where_it_may_round() -> None:
    """In a lower precision what is left of the error is compared with what passes."""
    right = tensor([64, 64])
    candidate = right * 0.5 * (1 + 1e-3 * torch.randn(64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    measurement = measured([candidate], right)
    assert hints(measurement, Surroundings(noise=0.0)) == ()
    (said,) = hints(measurement, Surroundings(factors={"tp": 2}, noise=1e-2))
    assert "(1/tp: " in said


def test_a_scalar_is_no_constant_times_another_unless_that_means_something() -> None:
    right = torch.tensor(3.0, dtype=torch.float64)
    assert hints(measured([right * 1.7], right), Surroundings(factors={"tp": 2})) == ()
    assert len(hints(measured([right * 2], right), Surroundings(factors={"tp": 2}))) == 1


PLACES = [{"tp": tp, "dp": dp} for dp in range(2) for tp in range(2)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((1,), ("rank 1 only (tp 1, dp 0)",)),
        ((1, 3), ("ranks 1, 3 only (tp 1)",)),
        ((2, 3), ("ranks 2-3 only (dp 1)",)),
        ((0, 3), ()),
        ((0, 1, 2, 3), ()),
    ],
)
def test_ranks_that_are_wrong_alone_are_named_with_their_place(wrong: tuple[int, ...], said: tuple[str, ...]) -> None:
    """By the coordinates that the right ones do not have; ranks that have none in common are no pattern."""
    right = tensor([8, 8])
    spoiled = right + torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    measurement = measured([spoiled if rank in wrong else right for rank in range(4)], right)
    assert hints(measurement, Surroundings(places=PLACES)) == said


def test_a_coordinate_that_a_right_rank_has_too_tells_nothing() -> None:
    """Two of three ranks with tp 1 are wrong: it is not tp 1 that is."""
    right = tensor([8, 8])
    places = [{"tp": tp, "dp": dp} for dp in range(3) for tp in range(2)]
    measurement = measured([right + tensor([8, 8]).T if rank in (1, 3) else right for rank in range(6)], right)
    assert hints(measurement, Surroundings(places=places)) == ()


def test_a_copy_that_was_never_computed_is_no_summand() -> None:
    """Beside a right one: their sum is right, but nothing is missing from that."""
    right = tensor([8, 8])
    assert hints(measured([right, right * 0], right), Surroundings(places=PLACES)) == (
        "0 times the reference in every wrong piece (never computed)",
        "rank 1 only (tp 1)",
    )


def test_a_rank_is_not_the_wrong_one_where_it_alone_holds_the_tensor() -> None:
    """The last pipeline stage has the logits; there is no other that would have them right."""
    right = tensor([8, 8])
    assert hints(measured([right + tensor([8, 8]).T], right), Surroundings(places=PLACES)) == ()


def parts(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(8, 8, generator=generator, dtype=torch.float64) for _ in range(count)]


def test_copies_that_are_summands_are_known_by_their_sum() -> None:
    """Also where data-parallel ranks hold the same summand."""
    found = parts(2)
    right = sum(found, torch.zeros(8, 8, dtype=torch.float64))
    expected = "have the reference as their sum: a reduction over them is missing"
    assert hints(measured(found, right), Surroundings()) == (f"the copies on ranks 0-1 {expected}",)
    assert hints(measured([*found, *found], right), Surroundings()) == (f"the copies on ranks 0-3 {expected}",)


def test_copies_whose_mean_is_right_are_known_by_it() -> None:
    found = parts(3)
    right = sum(found, torch.zeros(8, 8, dtype=torch.float64)) / 3
    assert hints(measured(found, right), Surroundings()) == (
        "the copies on ranks 0-2 have the reference as their mean: a reduction over them is missing",
    )


def test_copies_that_differ_otherwise_are_no_summands() -> None:
    assert hints(measured(parts(2), tensor([8, 8])), Surroundings()) == ()


@pytest.mark.parametrize(("error", "noise"), [(1e-15, 0.0), (1e-3, 1e-2)])
def test_copies_that_are_nearly_right_are_no_summands(error: float, noise: float) -> None:
    """Their mean is nearly right as well, which means nothing."""
    right = tensor([8, 8])
    found = [right + sign * error * part for sign, part in zip((1, -1), parts(2), strict=True)]
    assert hints(measured(found, right), Surroundings(noise=noise)) == ()


def test_whereabouts_join_ranks_and_pieces_and_count_the_rest() -> None:
    """Ranks with the same ranges are one place; three places are named."""
    right = tensor([10, 4])
    candidate = right.clone()
    rows = torch.arange(10, dtype=torch.float64)
    candidate[[0, 2, 3, 4, 6, 8], 1:] += 10 + rows[[0, 2, 3, 4, 6, 8], None]
    boxes = [((2 * i, 2 * i + 2), (0, 4)) for i in range(5)]
    measurement = measured([candidate] * 6, right, [*boxes, boxes[4]])
    assert whereabouts(measurement) == "wrong: ranks 4-5 [8, 1:4], rank 3 [6, 1:4], rank 2 [4, 1:4] and 2 more"
    one = measured([candidate], right)
    assert whereabouts(one) == "wrong: rank 0 [6 in 0:9, 1:4]"


def test_whereabouts_of_what_is_right_are_none() -> None:
    assert whereabouts(measured([tensor([4, 4])], tensor([4, 4]))) == ""


def test_whereabouts_begin_with_what_is_not_finite() -> None:
    right = tensor([4, 4])
    spoiled = right.clone()
    spoiled[1, 1] = math.nan
    assert whereabouts(measured([right + 5, spoiled], right)) == "wrong: rank 1 [1, 1], rank 0 [0:4, 0:4]"


def test_whereabouts_of_a_scalar_are_its_ranks() -> None:
    right = torch.tensor(3.0, dtype=torch.float64)
    assert whereabouts(measured([right + 1, right + 1], right)) == "wrong: ranks 0-1"


@pytest.mark.parametrize(("constant", "said"), [(1.0001, "1.0001"), (1 + 9e-10, "1+9e-10"), (1 - 9e-10, "1-9e-10"), (1.0, "1")])
def test_a_factor_that_is_nearly_one_is_not_said_to_be_one(constant: float, said: str) -> None:
    assert as_said(constant) == said
