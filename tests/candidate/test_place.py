"""Where a rank's part of a probe lies: each axis is cut where the layout cuts it, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core import parallel_state

from tests.run.test_references import CASE
from validation.candidate.place import WHOLE_SEQUENCE, Place, device
from validation.case.layout import Layout
from validation.case.probes import Probe
from validation.case.training import Training

SEQUENCE, BATCH = 8, 4


def place(layout: Layout, tp: int = 0, cp: int = 0, dp: int = 0, micro_batch_size: int = 1) -> Place:
    case = replace(CASE, layout=layout, batch_size=BATCH, seq_length=SEQUENCE, micro_batch_size=micro_batch_size)
    return Place(case, tp=tp, cp=cp, dp=dp)


def probe(kind: str, axis: str, size: int, sequence: int = SEQUENCE) -> Probe:
    return Probe(f"layers.0.{kind}", 0, ("batch", "sequence", axis), (BATCH, sequence, size))


def boxes(of: Place, found: Probe, shape: tuple[int, ...], micro_batch: int = 0) -> list[tuple[Any, list[int]]]:
    """The boxes, each with the positions of the tensor that it holds, as the tensor counts them."""
    tensor = torch.arange(shape[1]).view(1, -1, 1).expand(shape).contiguous()
    return [(box, part[0, :, 0].tolist()) for box, part in of.pieces(found, tensor, micro_batch)]


@pytest.mark.parametrize(("tp", "real"), [(0, 6), (1, 3)])
def test_masked_logits_are_compared_of_words_alone(tp: int, real: int) -> None:
    """A model may put minus infinity there before or after it is looked at."""
    model = replace(CASE.model, vocab_size=9, padded_vocab_size=12)
    case = replace(CASE, model=model, layout=Layout(tp=2), training=Training(padding_logits="masked"))
    logits = torch.ones(1, 1, 6)
    logits[..., real:] = -torch.inf
    whole = probe("logits", "vocabulary", 12)
    assert Place(case, tp, 0, 0).of_words(whole, logits)[0, 0].tolist() == [1.0] * real + [0.0] * (6 - real)
    counted = replace(case, training=Training())
    assert Place(counted, tp, 0, 0).of_words(whole, logits) is logits
    assert Place(case, tp, 0, 0).of_words(probe("output", "hidden", 6), logits) is logits


def test_a_rank_knows_its_place_from_megatron_s_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensor, context and data parallel rank, each its own."""
    for rank, group in enumerate(("tensor_model", "context", "data"), start=1):
        monkeypatch.setattr(parallel_state, f"get_{group}_parallel_rank", lambda rank=rank: rank)
    assert Place.here(CASE) == Place(CASE, tp=1, cp=2, dp=3)


def test_a_rank_computes_on_its_gpu_or_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert device() == torch.device("cuda", 3)


@pytest.mark.parametrize(
    ("dp", "size", "micro_batch", "rows"),
    [(0, 1, 0, (0, 1)), (0, 1, 1, (1, 2)), (1, 1, 0, (2, 3)), (1, 1, 1, (3, 4)), (0, 2, 0, (0, 2)), (1, 2, 0, (2, 4))],
)
def test_each_data_parallel_rank_has_an_unbroken_run_of_sequences(
    dp: int, size: int, micro_batch: int, rows: tuple[int, int]
) -> None:
    """Of four, two a rank, one or two at a time."""
    assert place(Layout(dp=2), dp=dp, micro_batch_size=size).batch_rows(micro_batch) == rows


@pytest.mark.parametrize(("micro_batch", "rows"), [(0, (0, 2)), (1, (2, 4))])
def test_micro_batches_follow_each_other(micro_batch: int, rows: tuple[int, int]) -> None:
    """Two sequences each."""
    assert place(Layout(), micro_batch_size=2).batch_rows(micro_batch) == rows


def test_sequence_parallelism_cuts_the_positions_between_the_regions() -> None:
    """Of tensor-parallel ranks alone, and not where it is off."""
    cut = place(Layout(tp=2), tp=1)
    assert cut.sequence_ranges("output") == [(4, 8)]
    assert cut.sequence_ranges("output", latent_cut=True) == [(0, 8)]
    assert place(Layout(tp=2, sequence_parallel=False), tp=1).sequence_ranges("output") == [(0, 8)]
    assert place(Layout()).sequence_ranges("output") == [(0, 8)]


def test_the_regions_are_those_of_megatron_core() -> None:
    """Column-parallel layers gather the sequence: attention's heads, the vocabulary, and the projection of an MTP layer.

    So does the indexer of sparse attention.
    """
    attention = {f"attention.{kind}" for kind in ("query", "key", "value", "core")}
    attention |= {f"attention.{kind}" for kind in ("projected_query", "absorbed_query", "absorbed_key")}
    attention |= {f"indexer.{kind}" for kind in ("query", "key", "weights", "scores", "keys")}
    assert set(WHOLE_SEQUENCE) == attention | {"logits", "token_loss", "mtp.projection", "mtp.logits", "mtp.token_loss"}


@pytest.mark.parametrize("kind", WHOLE_SEQUENCE)
def test_inside_the_regions_a_rank_has_every_position(kind: str) -> None:
    """Heads, columns and vocabulary are cut there."""
    assert place(Layout(tp=2), tp=1).sequence_ranges(kind) == [(0, 8)]


def test_context_parallelism_cuts_in_zigzag_everywhere() -> None:
    """Also inside the regions, and what is left is cut again between them."""
    of = place(Layout(cp=2, tp=2), tp=1)
    assert of.sequence_ranges("logits") == [(0, 2), (6, 8)]
    assert of.sequence_ranges("output") == [(6, 8)]
    assert replace(of, cp=1).sequence_ranges("logits") == [(2, 4), (4, 6)]


@pytest.mark.parametrize("axis", ["heads", "columns", "vocabulary"])
def test_heads_columns_and_vocabulary_are_cut_over_tensor_parallel_ranks(axis: str) -> None:
    """Each rank its own share; the second sequence of the second data-parallel rank is the fourth."""
    of = place(Layout(tp=2, dp=2), tp=1, dp=1)
    assert boxes(of, probe("attention.query", axis, 6), (1, 8, 3), micro_batch=1) == [
        (((3, 4), (0, 8), (3, 6)), list(range(8)))
    ]


def test_other_axes_are_whole() -> None:
    of = place(Layout(tp=2), tp=1)
    assert boxes(of, probe("output", "hidden", 6), (1, 4, 6)) == [(((0, 1), (4, 8), (0, 6)), [0, 1, 2, 3])]


def test_a_latent_is_cut_where_its_tensor_is() -> None:
    """Column-parallel down-projections cut it and have the whole sequence; duplicated ones do the opposite."""
    of = place(Layout(tp=2), tp=1)
    latent = probe("attention.kv_latent", "latent", 6)
    assert boxes(of, latent, (1, 8, 3)) == [(((0, 1), (0, 8), (3, 6)), list(range(8)))]
    assert boxes(of, latent, (1, 4, 6)) == [(((0, 1), (4, 8), (0, 6)), [0, 1, 2, 3])]
    hidden = probe("output", "hidden", 6)
    assert boxes(of, hidden, (1, 4, 3)) == [(((0, 1), (4, 8), (0, 6)), [0, 1, 2, 3])]


def test_each_chunk_of_a_zigzag_is_a_piece() -> None:
    """In the order in which the rank holds them, each with its part of the tensor."""
    of = place(Layout(cp=2))
    assert boxes(of, probe("output", "hidden", 6), (1, 4, 6)) == [
        (((0, 1), (0, 2), (0, 6)), [0, 1]),
        (((0, 1), (6, 8), (0, 6)), [2, 3]),
    ]
    assert boxes(place(Layout(cp=2), cp=1), probe("output", "hidden", 6), (1, 4, 6)) == [
        (((0, 1), (2, 4), (0, 6)), [0, 1]),
        (((0, 1), (4, 6), (0, 6)), [2, 3]),
    ]


def test_positions_that_have_no_token_to_predict_are_left_out() -> None:
    """The last of an MTP layer: a chunk that is such a position alone is no piece, the one before it loses one."""
    of = place(Layout(cp=2))
    assert boxes(of, probe("output", "hidden", 6, sequence=7), (1, 4, 6)) == [
        (((0, 1), (0, 2), (0, 6)), [0, 1]),
        (((0, 1), (6, 7), (0, 6)), [2]),
    ]
    assert boxes(of, probe("output", "hidden", 6, sequence=6), (1, 4, 6)) == [(((0, 1), (0, 2), (0, 6)), [0, 1])]
    whole = place(Layout())
    assert boxes(whole, probe("output", "hidden", 6, sequence=7), (1, 8, 6)) == [(((0, 1), (0, 7), (0, 6)), list(range(7)))]


@pytest.mark.parametrize("length", [3, 5, 8])
def test_a_tensor_of_another_length_is_one_piece_that_cannot_fit(length: int) -> None:
    """From the first position to the last: the recorder says that its shape is another than declared."""
    of = place(Layout(cp=2))
    assert boxes(of, probe("output", "hidden", 6), (1, length, 6)) == [(((0, 1), (0, 8), (0, 6)), list(range(length)))]
    if length != SEQUENCE:
        whole = boxes(place(Layout()), probe("output", "hidden", 6), (1, length, 6))
        assert whole == [(((0, 1), (0, 8), (0, 6)), list(range(length)))]


def test_a_probe_whose_axes_are_not_those_of_its_shape_is_a_mistake() -> None:
    found = replace(probe("output", "hidden", 6), shape=(BATCH, SEQUENCE, 6, 7))
    with pytest.raises(ValueError, match="zip"):
        boxes(place(Layout()), found, (1, 8, 6))
