"""What megatron-core is told of packed documents: where tokens end, where padding ends, and when it is the latter alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from validation.candidate.step import told_of_documents
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.training import Training

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


def test_documents_without_padding_end_once() -> None:
    """The arguments for padding are left alone."""
    told = told_of_documents(CASE, {"documents": PADDED["documents"]})
    assert told.cu_seqlens_q.tolist() == [0, 4, 8]
    assert told.cu_seqlens_q_padded is None
