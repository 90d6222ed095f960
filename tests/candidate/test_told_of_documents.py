"""What megatron-core is told of packed documents: where tokens end, where padding ends, and when it is the latter alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from megatron.core.datasets.gpt_dataset import _get_ltor_masks_and_position_ids

from tests import core  # noqa: F401 - before megatron-core
from validation.candidate.step import attention_mask, told_of_documents
from validation.case.case import Case
from validation.case.data import END
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.training import Training
from validation.reference.batch import make_batch, own_positions

CASE = Case("tiny", TINY.model, Layout(), "fp64", "local", "gloo", 0, 1, 1, 8, training=Training(data_shape="packed-padded"))
MTP = replace(CASE, model=replace(TINY.model, num_nextn_predict_layers=1))
PADDED = {"documents": torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]]), "real": torch.tensor([[1, 1, 1, 0, 1, 1, 0, 0]]).bool()}


@pytest.mark.parametrize(
    ("case", "tokens"),
    [(CASE, [0, 3, 5]), (MTP, [0, 4, 8]), (replace(CASE, implementation="te-fused"), [0, 4, 8])],
    ids=["local", "MTP layers", "Transformer Engine"],
)
def test_padded_documents_end_twice_unless_a_part_of_the_model_cannot_take_it(case: Case, tokens: list[int]) -> None:
    """MTP layers and Transformer Engine are given the ends of the padding in both places."""
    told = told_of_documents(case, PADDED)
    assert [told.cu_seqlens_q.tolist(), told.cu_seqlens_kv.tolist()] == [tokens, tokens]
    assert [told.cu_seqlens_q_padded.tolist(), told.cu_seqlens_kv_padded.tolist()] == [[0, 4, 8]] * 2
    assert (told.max_seqlen_q, told.max_seqlen_kv, told.qkv_format) == (4, 4, "thd")


def test_documents_are_what_megatron_cores_dataset_makes_of_them() -> None:
    """Of --reset-attention-mask, --reset-position-ids and --eod-mask-loss: mask, position ids, and what never counts."""
    case = replace(CASE, batch_size=4, micro_batch_size=4, seq_length=24, training=Training(data_shape="documents"))
    batch = make_batch(case)
    assert batch.documents is not None
    given = {"tokens": batch.tokens, "documents": batch.documents}
    for row, tokens in enumerate(batch.tokens):
        mask, counts, positions = _get_ltor_masks_and_position_ids(tokens, END, True, True, True, True)
        assert torch.equal(mask[0], attention_mask(case, given)[row, 0])
        assert torch.equal(positions, own_positions(batch.documents)[row])
        assert not (batch.mask[row] & (counts == 0)).any()
        assert torch.equal(counts == 0, tokens == END)


def test_documents_without_padding_end_once() -> None:
    """The arguments for padding are left alone."""
    told = told_of_documents(CASE, {"documents": PADDED["documents"]})
    assert told.cu_seqlens_q.tolist() == [0, 4, 8]
    assert told.cu_seqlens_q_padded is None
