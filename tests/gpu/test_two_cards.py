"""Two GPUs of one host: overlap, a life that goes on in another layout, context parallelism, and two nodes of a GPU each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import two_nodes
from ci import junit
from tests.gpu.commands import run
from tests.gpu.conftest import needs_gpu
from validation.machine import gpus, version

pytestmark = [
    pytest.mark.gpu,
    needs_gpu,
    pytest.mark.skipif(gpus() < 2, reason=f"NCCL needs a GPU for each of two ranks, and {gpus()} are here"),
]
OVERLAP = "dp2+distributed+ddp.overlap_grad_reduce+ddp.overlap_param_gather+ddp.bucket_size=1000000"


def passed(folder: Path, *words: str) -> None:
    done = run(folder, "--transport", "nccl", "--precision", "bf16", *words, CUDA_VISIBLE_DEVICES="0,1")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    for path in (folder / "results").glob("*.xml"):
        assert {check.status for check in junit.read(path).checks} == {"pass"}


def test_overlap_and_buckets_change_no_step(tmp_path: Path) -> None:
    passed(tmp_path, "--preset", "mini", "--steps", "2", "--layouts", f"{OVERLAP},pp2+mtp")


def test_a_run_is_resumed_in_another_layout(tmp_path: Path) -> None:
    passed(tmp_path, "--preset", "mini", "--layouts", "tp2+step-resume-pp2-step,dp2+distributed+step-resume-tp2-step")


@pytest.mark.skipif(version("transformer-engine") == "absent", reason="Transformer Engine is not installed")
def test_keys_and_values_are_exchanged(tmp_path: Path) -> None:
    passed(tmp_path, "--preset", "mini", "--implementation", "te", "--layouts", "cp2+cp_comm_type=p2p,cp2+packed-padded")


def test_two_nodes_of_a_gpu_each_and_one_that_is_killed(tmp_path: Path) -> None:
    words = ("--preset", "mini", "--precision", "bf16", "--layouts", "tp2", "--transport", "nccl", "--rounds", "0")
    assert two_nodes.main(["--out", str(tmp_path / "nodes"), *words]) == 0
    found = json.loads((tmp_path / "nodes" / "two-nodes.json").read_text())
    assert "node 1" in found["killed"]["said"]
