"""A GPU that fails under a rank, or that nobody can be asked about: exit code and sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.gpu.commands import run
from tests.gpu.conftest import needs_gpu

pytestmark = [pytest.mark.gpu, needs_gpu]
SMALL = ("--transport", "nccl", "--precision", "fp32", "--steps", "0")


def test_a_kernel_that_fails_ends_with_1_and_says_how_to_find_it(tmp_path: Path) -> None:
    """It is the code's error, and must not be tried again."""
    done = run(tmp_path, *SMALL, "--plugin", "tests/gpu/cards.py:assertion", CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr
    said = " ".join(done.stdout.split())
    assert "device-side assert triggered; a kernel of the code under test failed" in said
    assert "CUDA_LAUNCH_BLOCKING=1 shows where" in said


def test_a_gpu_that_is_lost_ends_with_4_and_says_where_to_look(tmp_path: Path) -> None:
    """While a rank builds its model."""
    done = run(tmp_path, *SMALL, "--implementation", "tests.gpu.cards:lost", CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 4, done.stdout[-4000:] + done.stderr
    assert "the GPU has failed or is lost" in " ".join(done.stdout.split())


def without_nvml(folder: Path) -> dict[str, str]:
    """The environment of a process that finds a management library which cannot be loaded."""
    (folder / "nvml").mkdir()
    (folder / "nvml" / "libnvidia-ml.so.1").touch()
    before = os.environ.get("LD_LIBRARY_PATH", "")
    return {"LD_LIBRARY_PATH": f"{folder / 'nvml'}{os.pathsep}{before}", "CUDA_VISIBLE_DEVICES": "0"}


def test_nccl_without_nvml_is_refused_before_the_start(tmp_path: Path) -> None:
    done = run(tmp_path, *SMALL, **without_nvml(tmp_path))
    assert done.returncode == 3, done.stdout[-4000:] + done.stderr
    assert "NCCL finds GPUs through libnvidia-ml.so.1, which cannot be loaded here" in done.stderr


def test_ranks_that_share_a_gpu_run_without_nvml(tmp_path: Path) -> None:
    done = run(tmp_path, "--transport", "staged", *SMALL[2:], "--layouts", "tp2", **without_nvml(tmp_path))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
