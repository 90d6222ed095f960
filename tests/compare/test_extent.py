"""Extents: what is wrong is found, what is right costs nothing, and nothing is lost on the way from a rank."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
import torch

from validation.compare import extent as module
from validation.compare.difference import measure
from validation.compare.extent import MOST_RUNS, Extent, Span, extent
from validation.compare.measurement import PieceReport
from validation.compare.piece import Box, box_shape, whole

SHAPE = (4, 6, 5)


def reference(shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def found(candidate: torch.Tensor, right: torch.Tensor, box: Box | None = None, exact: bool = False) -> Extent | None:
    box = box or whole(right.shape)
    return extent(candidate, right, box, measure(candidate, right, box), exact)


def test_what_is_equal_has_none() -> None:
    assert found(reference(), reference()) is None
    assert found(reference(), reference(), exact=True) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rounding_has_none_unless_nothing_may_round(dtype: torch.dtype) -> None:
    """One unit in the last place of every element."""
    right = reference().to(dtype)
    candidate = right * (1 + torch.finfo(dtype).eps)
    assert found(candidate, right) is None
    assert found(candidate, right, exact=True) is not None


def test_what_is_below_the_floor_of_its_tensor_has_none() -> None:
    """A gradient that is kept in float32 and was computed in bf16 is off by more than float32 rounds."""
    right = reference().float()
    candidate = right * 1.01
    difference = measure(candidate, right, whole(SHAPE))
    assert extent(candidate, right, whole(SHAPE), difference, floor=0.0099) is not None
    assert extent(candidate, right, whole(SHAPE), difference, floor=0.0101) is None


def test_one_choice_of_an_expert_has_one() -> None:
    """Whole numbers do not round."""
    right = torch.zeros(SHAPE, dtype=torch.bool)
    candidate = right.clone()
    candidate[1, 2, 3] = True
    assert found(candidate, right) == Extent((Span(1, ((1, 2),)), Span(1, ((2, 3),)), Span(1, ((3, 4),))))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
def test_indices_are_those_of_the_whole_tensor(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Counted from where the piece begins, however many elements are looked at at a time."""
    monkeypatch.setattr(module, "_CHUNK", chunk)
    right = reference()
    candidate = right.clone()
    candidate[1:3, [0, 1, 5], 2] += 1
    box = ((10, 14), (20, 26), (30, 35))
    assert found(candidate, right, box) == Extent((Span(2, ((11, 13),)), Span(3, ((20, 22), (25, 26))), Span(1, ((32, 33),))))


def test_an_echo_is_not_the_error() -> None:
    """What is a thousand times smaller than the largest error is left out; what is a hundred times smaller is not."""
    right = reference()
    candidate = right.clone()
    candidate[0, 0, 0] += 1
    candidate[1, 0, 0] += 1e-2
    candidate[3, 0, 0] += 1e-5
    assert found(candidate, right).spans[0] == Span(2, ((0, 2),))  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_what_is_shown(bad: float) -> None:
    """Whatever else is wrong: the rest follows from it or comes after."""
    right = reference()
    candidate = right + 1
    candidate[2, 3, 4] = bad
    assert [span.start for span in found(candidate, right).spans] == [2, 3, 4]  # type: ignore[union-attr]
    assert [span.count for span in found(candidate, right).spans] == [1, 1, 1]  # type: ignore[union-attr]


def test_a_scalar_has_one_without_spans() -> None:
    assert found(torch.tensor(2.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)) == Extent(())


def test_a_piece_without_elements_has_none() -> None:
    assert found(torch.zeros(0, 3), torch.zeros(0, 3)) is None


@pytest.mark.parametrize("seed", range(40))
def test_spans_hold_the_indices_of_both_and_no_others(seed: int) -> None:
    """Also where runs touch or overlap."""
    generator = random.Random(seed)
    left, right = (sorted(generator.sample(range(30), generator.randint(1, 20))) for _ in range(2))
    both = Span.of(left).merged(Span.of(right))
    assert list(both.indices) == sorted({*left, *right})
    assert both == Span.of(sorted({*left, *right}))


def test_many_runs_become_one_that_keeps_its_count() -> None:
    """A report stays small; a reader still sees how many of the range are wrong."""
    scattered = Span.of(range(0, 4 * MOST_RUNS, 2))
    assert scattered == Span(2 * MOST_RUNS, ((0, 4 * MOST_RUNS - 1),))
    assert scattered.merged(Span.of([4 * MOST_RUNS + 9])).count == 2 * MOST_RUNS + 1


def test_a_report_goes_through_json_whole() -> None:
    """And one that is right says no more than it did."""
    right, box = reference(), whole(SHAPE)
    assert box_shape(box) == SHAPE
    for candidate in (right, right + 1):
        difference = measure(candidate, right, box)
        report = PieceReport(3, box, difference, "digest", extent(candidate, right, box, difference))
        data = json.loads(json.dumps(report.as_list()))
        assert PieceReport.from_list(3, data) == report
        assert len(data) == (3 if candidate is right else 4)


@pytest.mark.parametrize("shape", [(6,), (6, 2), (2, 6)])
@pytest.mark.parametrize("chunk", [1, 5, 1 << 22])
def test_an_extent_has_a_span_for_each_dimension(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], chunk: int) -> None:
    """One dimension or two, long or wide, in chunks or at once: the last element is found where it is."""
    monkeypatch.setattr(module, "_CHUNK", chunk)
    right = reference(shape)
    candidate = right.clone()
    candidate.view(-1)[-1] += 1
    assert found(candidate, right) == Extent(tuple(Span(1, ((size - 1, size),)) for size in shape))


def test_a_span_begins_and_ends_with_what_is_wrong() -> None:
    span = Span.of([2, 3, 7, 9])
    assert (span.start, span.stop, span.runs) == (2, 10, ((2, 4), (7, 8), (9, 10)))


def test_extents_merge_dimension_by_dimension() -> None:
    """As the pieces of two ranks; those of tensors with other dimensions do not."""
    left, right = Extent((Span.of([0]), Span.of([1, 2]))), Extent((Span.of([1]), Span.of([5])))
    assert left.merged(right) == Extent((Span.of([0, 1]), Span.of([1, 2, 5])))
    with pytest.raises(ValueError, match="zip"):
        left.merged(Extent((Span.of([0]),)))


def test_as_many_runs_as_are_kept_are_kept() -> None:
    """One more is one too many."""
    kept = Span.of(range(0, 2 * MOST_RUNS, 2))
    assert len(kept.runs) == kept.count == MOST_RUNS
    assert len(Span.of(range(0, 2 * MOST_RUNS + 2, 2)).runs) == 1


def test_of_both_no_more_are_counted_than_their_runs_hold() -> None:
    """Nor more than both have counted."""
    scattered = Span.of(range(0, 4 * MOST_RUNS, 2))
    assert scattered.merged(scattered).count == 4 * MOST_RUNS - 1
    assert Span.of([0, 1]).merged(Span.of([1, 2])).count == 3


def test_exactly_at_rounding_there_is_none_and_exactly_at_the_echo_neither() -> None:
    """A limit belongs to what holds."""
    right = torch.ones(4, dtype=torch.float64)
    candidate = 1.5 * right
    difference = measure(candidate, right, whole((4,)))
    assert extent(candidate, right, whole((4,)), difference, floor=0.5) is None
    assert extent(candidate, right, whole((4,)), difference, floor=0.49) is not None
    half = torch.tensor([1024.0, 0.0, 1.0, 0.5], dtype=torch.float64)
    of_half = measure(half, torch.zeros(4, dtype=torch.float64), whole((4,)))
    assert 1024.0 * module.SIGNIFICANT > 1.0
    exactly = replace(of_half, max_abs=1.0 / module.SIGNIFICANT)
    found_there = extent(half, torch.zeros(4, dtype=torch.float64), whole((4,)), exactly)
    assert found_there == Extent((Span(1, ((0, 1),)),))


def test_what_equals_though_it_is_said_to_differ_has_none() -> None:
    """And what has elements though none differs: nothing is looked for."""
    right = reference()
    difference = measure(right + 1, right, whole(SHAPE))
    assert extent(right, right, whole(SHAPE), difference) is None
    assert extent(right + 1, right, whole(SHAPE), replace(difference, differing=0)) is None


def test_whole_numbers_do_not_round() -> None:
    """Off by a half of all of them is off."""
    right = torch.ones(SHAPE, dtype=torch.int64)
    candidate = right.clone()
    candidate[0, 0, 0] = 2
    assert found(candidate, right) is not None


def test_a_box_of_other_dimensions_is_refused() -> None:
    right = reference()
    difference = measure(right + 1, right, whole(SHAPE))
    with pytest.raises(ValueError, match="zip"):
        extent(right + 1, right, (*whole(SHAPE), (0, 1)), difference)


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.01)], ids=str
)
def test_ten_times_what_rounds_is_an_error(dtype: torch.dtype, error: float) -> None:
    """In each dtype by its own measure."""
    right = reference().to(dtype)
    assert found((right.double() * (1 + error)).to(dtype), right) is not None
