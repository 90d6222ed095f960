"""Ranks with a GPU each, over NCCL: what is right passes, and what is planted is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import junit
from tests.gpu.commands import run
from tests.gpu.conftest import needs_gpu
from validation.machine import gpus

pytestmark = [
    pytest.mark.gpu,
    needs_gpu,
    pytest.mark.skipif(gpus() < 2, reason=f"NCCL needs a GPU for each of two ranks, and {gpus()} are here"),
]


def test_layouts_of_tiny_pass_in_fp64_and_the_self_test_sees_what_it_plants(tmp_path: Path) -> None:
    """With two optimizer steps. The planted defects run over NCCL, too."""
    layouts = ("tp2", "pp2", "dp2+distributed")
    words = ("--transport", "nccl", "--precision", "fp64", "--layouts", ",".join(layouts), "--self-test")
    done = run(tmp_path, *words, CUDA_VISIBLE_DEVICES="0,1")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    for layout in layouts:
        suite = junit.read(tmp_path / "results" / f"tiny-{layout}-fp64-local-nccl.xml")
        assert suite.properties["transport"] == "nccl"
        assert {check.status for check in suite.checks} == {"pass"}
    (planted,) = (tmp_path / "results").glob("self-test-*.xml")
    assert {check.status for check in junit.read(planted).checks} == {"pass"}


def test_too_few_gpus_end_with_3_and_both_ways_out(tmp_path: Path) -> None:
    """More ranks than any machine has GPUs for."""
    done = run(tmp_path, "--transport", "nccl", "--tp", "2", "--dp", "64", "--batch-size", "64", "--micro-batch-size", "1")
    assert done.returncode == 3, done.stdout[-4000:] + done.stderr
    assert f"needs 128 GPUs and {gpus()} were found" in done.stderr
    assert "`--share-gpu" in done.stderr
