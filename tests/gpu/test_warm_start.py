"""Ranks that start by forking can use the GPU: what the fork server imports leaves CUDA alone."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.conftest import needs_gpu

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.gpu, needs_gpu]

FORK = """
import json, os, sys, time
start = time.monotonic()
import {module}
import torch
told = dict(seconds=time.monotonic() - start, initialised=torch.cuda.is_initialized(), te="transformer_engine" in sys.modules)
read, write = os.pipe()
if os.fork() == 0:
    try:
        said = str(torch.ones(3, device="cuda").sum().item())
    except BaseException as error:
        said = repr(error)
    os.write(write, said.encode())
    os._exit(0)
os.close(write)
told["child"] = os.read(read, 4096).decode()
print("TOLD" + json.dumps(told))
"""
"""A process imports a module, forks, and has its child use the GPU."""


def forked_after(module: str) -> dict[str, Any]:
    environment = {**os.environ, "PLUMBLINE_TRANSPORT": "staged", "OMP_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", FORK.format(module=module)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert "TOLD" in ended.stdout, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout.partition("TOLD")[2])
    print(f"after import {module}: {told}")  # noqa: T201 - what a reader of `pytest -s` wants to know
    return told


def test_a_child_of_the_fork_server_can_use_the_gpu() -> None:
    told = forked_after("validation.run.preload")
    assert told["initialised"] is False
    assert told["child"] == "3.0"
    assert told["te"] == (importlib.util.find_spec("transformer_engine") is not None)


@pytest.mark.skipif(importlib.util.find_spec("transformer_engine") is None, reason="Transformer Engine is not installed")
def test_importing_transformer_engine_leaves_cuda_alone() -> None:
    told = forked_after("transformer_engine.pytorch")
    assert told["initialised"] is False
    assert told["child"] == "3.0"
