"""Differences: what they say is what the plain formulas say, however the tensors are cut, and NaN never passes."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

from validation.compare import difference as difference_
from validation.compare import fused, native
from validation.compare.difference import Difference, measure
from validation.compare.piece import Box, slices, whole
from validation.compare.sums import Sums

SHAPE = (5, 7, 6)


@pytest.fixture(autouse=True, params=["compiled", "NumPy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds of the compiled pass and of NumPy's."""
    if request.param == "NumPy":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.why():
        pytest.skip(native.why())


def pair(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A reference, and a candidate that is a percent away from it."""
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(shape, generator=generator, dtype=torch.float64)
    return reference + 0.01 * torch.randn(shape, generator=generator, dtype=torch.float64), reference


def measured(candidate: torch.Tensor, reference: torch.Tensor) -> Difference:
    return measure(candidate, reference, whole(candidate.shape))


def assert_same(one: Difference, other: Difference) -> None:
    """All fields: counts and places exactly, sums up to the order in which they were added."""
    left, right = asdict(one), asdict(other)
    for sums in ("sum_abs", "sum_squares", "reference_squares", "cross"):
        assert left.pop(sums) == pytest.approx(right.pop(sums), rel=1e-12)
    assert left == right


@pytest.mark.parametrize("seed", range(5))
def test_every_field_is_the_plain_formula(seed: int) -> None:
    """Each statistic is what numpy makes of the two arrays."""
    candidate, reference = pair(seed=seed)
    c, r = candidate.numpy(), reference.numpy()
    d = c - r
    place = numpy.unravel_index(numpy.abs(d).argmax(), SHAPE)
    expected = Difference(
        count=c.size,
        differing=int((d != 0).sum()),
        max_abs=float(numpy.abs(d).max()),
        max_index=tuple(int(position) for position in place),
        sum_abs=float(numpy.abs(d).sum()),
        sum_squares=float((d**2).sum()),
        reference_squares=float((r**2).sum()),
        cross=float((c * r).sum()),
        nonfinite_candidate=0,
        nonfinite_reference=0,
    )
    found = measured(candidate, reference)
    assert_same(found, expected)
    assert found.average == pytest.approx(numpy.abs(d).mean())
    assert found.relative_error == pytest.approx(numpy.linalg.norm(d) / numpy.linalg.norm(r))
    assert found.projection == pytest.approx((c * r).sum() / (r * r).sum())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_halves_merge_into_the_whole(axis: int) -> None:
    """Measured in two ranks or in one: all fields are the same."""
    candidate, reference = pair()
    cut, size = 2, SHAPE[axis]
    boxes: list[Box] = [
        tuple(part if dimension == axis else (0, length) for dimension, length in enumerate(SHAPE))
        for part in ((0, cut), (cut, size))
    ]
    first, second = (measure(candidate[slices(box)], reference[slices(box)], box) for box in boxes)
    assert_same(first.merged(second), measured(candidate, reference))
    assert_same(second.merged(first), measured(candidate, reference))


def test_the_worst_place_is_counted_in_the_whole_tensor() -> None:
    """A piece in the middle names the index that a reader would look up in the whole."""
    box: Box = ((2, 4), (3, 7), (0, 6))
    part = torch.zeros(2, 4, 6)
    worse = part.clone()
    worse[1, 2, 5] = -3.0
    found = measure(worse, part, box)
    assert found.max_index == (3, 5, 5)
    assert found.max_abs == 3.0


@pytest.mark.parametrize("chunk", [1, 7, 64, 209, 210, 211])
def test_a_tensor_larger_than_a_chunk_is_measured_the_same(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Worked through in chunks that do not divide it: all fields, the place of the worst included."""
    candidate, reference = pair()
    expected = measured(candidate, reference)
    monkeypatch.setattr(difference_, "_CHUNK", chunk)
    assert_same(measured(candidate, reference), expected)


def test_a_tensor_that_is_not_contiguous_is_measured_where_it_lies() -> None:
    """Hooks hand over transposed views: index and sums follow the view's order."""
    candidate, reference = pair()
    found = measured(candidate.transpose(0, 2), reference.transpose(0, 2))
    plain = measured(candidate, reference)
    assert found.max_index == plain.max_index[::-1]
    assert found.sum_squares == pytest.approx(plain.sum_squares)


BAD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@pytest.mark.parametrize("chunk", [10, 1 << 22])
@pytest.mark.parametrize("both", [False, True], ids=["one side", "both sides"])
@pytest.mark.parametrize("side", ["candidate", "reference"])
@pytest.mark.parametrize("bad", BAD)
def test_what_is_not_finite_is_counted_and_holds_no_limit(
    monkeypatch: pytest.MonkeyPatch, bad: str, side: str, both: bool, chunk: int
) -> None:
    """Counts are right on each side, and no limit, however wide, is met."""
    monkeypatch.setattr(difference_, "_CHUNK", chunk)
    sides = dict(zip(("candidate", "reference"), pair(), strict=True))
    for name in sides if both else (side,):
        sides[name][1, 2, 3] = sides[name][4, 0, 0] = BAD[bad]
    found = measured(**sides)
    assert found.nonfinite_candidate == (2 if both or side == "candidate" else 0)
    assert found.nonfinite_reference == (2 if both or side == "reference" else 0)
    assert not found.finite
    assert not found.relative_error <= 1e300


def test_nan_against_a_reference_of_zeros_holds_no_limit() -> None:
    """Zero over zero is zero, but NaN over zero is not."""
    candidate = torch.tensor([0.0, math.nan])
    assert not measured(candidate, torch.zeros(2)).relative_error <= 1e300


def test_nan_outlives_merging() -> None:
    """A NaN in one piece is the worst of the whole, from whichever side it comes."""
    candidate, reference = pair()
    good = measure(candidate, reference, whole(SHAPE))
    candidate[0, 1, 2] = math.nan
    bad = measure(candidate, reference, whole(SHAPE))
    for merged in (good.merged(bad), bad.merged(good)):
        assert math.isnan(merged.max_abs)
        assert merged.max_index == (0, 1, 2)
        assert merged.nonfinite_candidate == 1


def test_zero_against_zero_is_no_error() -> None:
    """Gradients of experts that no token chose are zero on both sides; anything else against zero is infinitely wrong."""
    assert measured(torch.zeros(4), torch.zeros(4)).relative_error == 0.0
    assert measured(torch.full((4,), 1e-30), torch.zeros(4)).relative_error == math.inf


def test_maps_of_booleans_are_compared_as_numbers() -> None:
    """Chosen experts come as booleans: each that differs counts once."""
    reference = torch.tensor([[True, False, True, False]])
    candidate = torch.tensor([[True, True, False, False]])
    found = measured(candidate, reference)
    assert (found.differing, found.sum_abs, found.reference_squares, found.max_abs) == (2, 2.0, 2.0, 1.0)
    assert found.max_index in ((0, 1), (0, 2))


def test_integers_beyond_float32_are_told_apart() -> None:
    """Sums are in float64: two token numbers that float32 would take for the same differ."""
    assert measured(torch.tensor([2**24 + 1]), torch.tensor([2**24])).differing == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precisions_are_measured_in_float64(dtype: torch.dtype) -> None:
    """No rounding is added by measuring: the largest difference is the exact one."""
    candidate, reference = (tensor.to(dtype) for tensor in pair())
    exact = (candidate.double() - reference.double()).abs()
    assert measured(candidate, reference).max_abs == exact.max().item()


def test_an_empty_piece_measures_nothing() -> None:
    """No elements: no error, and no average either."""
    found = measured(torch.empty(0, 3), torch.empty(0, 3))
    assert (found.count, found.relative_error, found.max_abs, found.max_index) == (0, 0.0, 0.0, (0, 0))
    assert math.isnan(found.average)


def test_a_scalar_is_measured() -> None:
    """The loss: one element, whose place is the empty index."""
    found = measured(torch.tensor(4.5), torch.tensor(4.0))
    assert (found.count, found.max_abs, found.max_index) == (1, 0.5, ())


@pytest.mark.parametrize("wrong", [(5, 7, 5), (7, 5, 6), (210,)])
def test_a_shape_that_was_not_declared_is_refused(wrong: tuple[int, ...]) -> None:
    """Nothing is broadcast, whichever side has the other shape."""
    good, bad = torch.zeros(SHAPE), torch.zeros(wrong)
    for candidate, reference in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="declared"):
            measure(candidate, reference, whole(SHAPE))


@pytest.mark.parametrize("spoil", [lambda c: c, lambda c: c.fill_(math.nan), lambda c: c.fill_(math.inf)])
def test_a_difference_survives_json(spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Ranks send differences as JSON: NaN and infinity arrive as such."""
    candidate, reference = pair()
    found = measured(spoil(candidate), reference)
    back = Difference.from_list(json.loads(json.dumps(found.as_list())))
    assert repr(back) == repr(found)


def test_over_zeros_there_is_no_projection() -> None:
    """Nor a warning or an exception: it is no number."""
    assert math.isnan(measured(torch.ones(3), torch.zeros(3)).projection)
    assert math.isnan(measured(torch.zeros(3), torch.zeros(3)).projection)


def test_sums_that_are_nan_make_an_error_that_is_nan() -> None:
    """And a sum of exactly zero one of zero, which nothing turns into NaN."""
    sound = measured(torch.ones(3), torch.ones(3))
    assert sound.relative_error == 0.0
    assert math.isnan(replace(sound, sum_squares=math.nan).relative_error)
    assert math.isnan(replace(sound, sum_squares=-1.0).relative_error)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_what_overflows_while_it_is_measured_is_reported_and_not_warned_of(bad: float) -> None:
    """Warnings may be errors where a user runs it."""
    candidate, reference = pair()
    candidate[0, 0, 0] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not measured(candidate, reference).relative_error <= 1e300 or bad == 1e200
        assert not measured(candidate, torch.full(SHAPE, math.inf)).relative_error <= 1e300


def test_a_chunk_of_one_measures_a_tensor_of_one_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty second chunk would be merged into it."""
    sizes = []
    real = difference_._measure_flat

    def counted(candidate: torch.Tensor, *rest: Any) -> Difference:
        sizes.append(candidate.numel())
        return real(candidate, *rest)

    monkeypatch.setattr(difference_, "_measure_flat", counted)
    monkeypatch.setattr(difference_, "_CHUNK", 1)
    monkeypatch.setattr(native, "library", lambda: None)
    measured(torch.ones(1), torch.ones(1))
    measured(torch.ones(3), torch.ones(3))
    assert sizes == [1, 1, 1, 1]


@pytest.mark.parametrize(("on_gpu", "module"), [(True, fused), (False, native)])
def test_a_compiled_pass_is_asked_of_both_and_its_worst_part_is_named(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool, module: Any
) -> None:
    """On a GPU the one there, with candidate and reference in their places; a stand-in, for there need be no GPU."""
    asked: list[tuple[object, ...]] = []
    candidate: Any = SimpleNamespace(is_cuda=on_gpu, numel=lambda: 6)
    reference: Any = SimpleNamespace()
    parts = [Sums((1.0, 2.0, 3.0, 4.0), 0.5, 1, 2), Sums((1.0, 2.0, 3.0, 4.0), 0.75, 4, 1)]

    def answering(answer: Any) -> Any:
        def answered(*tensors: object) -> Any:
            asked.append(tensors)
            return answer

        return answered

    monkeypatch.setattr(module, "covers", answering(True))
    monkeypatch.setattr(module, "sums", answering(parts))
    found = difference_._in_one_pass(candidate, reference, ((0, 2), (0, 3)))
    assert asked == [(candidate, reference)] * 2
    assert found == Difference(6, 3, 0.75, (1, 1), 2.0, 4.0, 6.0, 8.0, 0, 0)
    monkeypatch.setattr(module, "covers", lambda *tensors: False)
    assert difference_._in_one_pass(candidate, reference, ((0, 2), (0, 3))) is None


def test_what_there_is_a_compiled_pass_for_goes_through_it(way: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy takes thirty times as long."""
    if native.library() is not None:
        monkeypatch.setattr(difference_, "in_chunks", lambda *given: pytest.fail("NumPy measured it"))
    assert measured(*pair()).count == math.prod(SHAPE)
