"""These tests build megatron-core's models, as any rank of any layout, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore

import tests.core  # noqa: F401
from validation.candidate import build
from validation.candidate.platform import _NoStream
from validation.case.case import Case

Chunks = Callable[..., Any]


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Chunks:
    """Yields a context in which this process is one rank of a case. Its collectives do nothing.

    On device `meta` weights have shapes and no bytes, so that a rank of DeepSeek-V3 at full size can be built.
    """

    @contextmanager
    def made(case: Case, rank: int, device: str = "meta") -> Iterator[Any]:
        monkeypatch.setattr(torch.cuda, "current_device", lambda: device)
        monkeypatch.setattr(torch.cuda, "Stream", _NoStream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *given, **named: _NoStream())
        monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *given, **named: self)
        monkeypatch.setattr(build, "device", lambda: torch.device(device))
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=case.layout.ranks)
        try:
            build.start_groups(case)
            yield build.build(case)
        finally:
            parallel_state.destroy_model_parallel()
            dist.destroy_process_group()

    return made
