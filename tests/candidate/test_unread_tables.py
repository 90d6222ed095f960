"""Yarn's tables on the CPU: they are made when fused RoPE reads them, and are upstream's."""

from __future__ import annotations

import pytest
import torch
from megatron.core.models.common.embeddings import YarnRotaryEmbedding

import tests.core  # noqa: F401 - first
from validation.candidate import platform


def test_a_table_is_made_when_it_is_read_with_upstreams_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(YarnRotaryEmbedding, "_set_cos_sin_cache", YarnRotaryEmbedding._set_cos_sin_cache)
    theirs = YarnRotaryEmbedding(16, scaling_factor=40.0, original_max_position_embeddings=64, use_cpu_initialization=True)
    platform._unread_tables()
    ours = YarnRotaryEmbedding(16, scaling_factor=40.0, original_max_position_embeddings=64, use_cpu_initialization=True)
    assert not hasattr(ours, "cos_cached")
    for length in (24, 8, 64):
        for made, table in zip(ours.get_cached_cos_sin(length), theirs.get_cached_cos_sin(length), strict=True):
            assert torch.equal(made, table)
