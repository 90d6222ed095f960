"""Ranks that share one GPU, from the command line to the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import junit
from tests.gpu.commands import run
from tests.gpu.conftest import needs_gpu

pytestmark = [pytest.mark.gpu, needs_gpu]


def test_layouts_of_tiny_pass_in_fp64_on_one_gpu(tmp_path: Path) -> None:
    """With two optimizer steps."""
    layouts = ("tp2", "tp2pp2", "ep2etp2", "dp2+distributed")
    done = run(tmp_path, "--share-gpu", "4", "--precision", "fp64", "--layouts", ",".join(layouts), CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    for layout in layouts:
        suite = junit.read(tmp_path / "results" / f"tiny-{layout}-fp64-local-staged.xml")
        assert suite.properties["transport"] == "staged"
        assert int(suite.properties["rank_0_peak_gpu_memory_mib"]) > 0


def test_without_sharing_too_few_gpus_end_with_3_and_the_hint(tmp_path: Path) -> None:
    done = run(tmp_path, "--transport", "nccl", "--tp", "2", CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 3
    assert "`--share-gpu 2` lets ranks share what is here" in done.stderr


def test_out_of_memory_on_the_gpu_ends_with_4_and_says_what_to_reduce(tmp_path: Path) -> None:
    """A layer spec that asks for more than any GPU has, so that torch itself raises."""
    done = run(tmp_path, "--transport", "nccl", "--implementation", "tests.gpu.test_shared_gpu:more_than_there_is")
    assert done.returncode == 4, done.stdout[-4000:] + done.stderr
    said = " ".join(done.stdout.split())
    assert "CUDA out of memory" in said
    assert "about this much is needed with --set num_hidden_layers=2" in said


def more_than_there_is(*given: object) -> None:
    """Ask the GPU for a thousand GiB."""
    import torch

    torch.empty(1 << 40, dtype=torch.uint8, device="cuda")
