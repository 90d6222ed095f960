"""Tests that only a machine with a GPU can run: `pytest -m gpu tests`."""

from __future__ import annotations

import pytest

from validation.machine import gpus, torchs_cuda

needs_gpu = pytest.mark.skipif(gpus() == 0 or torchs_cuda() is None, reason="no GPU here that this torch could use")
