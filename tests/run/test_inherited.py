"""What ranks inherit decides nothing: no variable makes a pool of threads before a fork, or leads ranks elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from validation.run import inherited

FORKS = """
import os, signal
import torch
threads = len(os.listdir("/proc/self/task"))
x = torch.ones(600, 600, dtype=torch.float64)
x @ x
pools = len(os.listdir("/proc/self/task")) - threads
child = os.fork()
if child == 0:
    signal.alarm(300)
    torch.set_num_threads(2)
    x @ x
    os._exit(0)
_, status = os.waitpid(child, 0)
print(pools, torch.get_num_threads(), len(os.sched_getaffinity(0)), status)
"""


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is set stays in the test."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="there is no /proc")
def test_no_variable_makes_threads_before_a_fork_or_binds_it_to_one_core() -> None:
    """All at once, as a cluster's start file sets them; the child then has threads of its own."""
    libraries = ("OMP", "MKL", "OPENBLAS", "GOTO", "BLIS", "NUMEXPR", "RAYON")
    os.environ.update({f"{library}_NUM_THREADS": "8" for library in libraries}, VECLIB_MAXIMUM_THREADS="8")
    os.environ.update(MKL_DOMAIN_NUM_THREADS="MKL_DOMAIN_ALL=8", MKL_DYNAMIC="false", OMP_DYNAMIC="true", OMP_NESTED="true")
    os.environ.update(OMP_PROC_BIND="close", OMP_PLACES="cores", GOMP_CPU_AFFINITY="0", KMP_AFFINITY="compact")
    inherited.settle()
    done = subprocess.run([sys.executable, "-c", FORKS], env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1", str(len(os.sched_getaffinity(0))), "0"]


def test_what_a_launcher_left_is_gone_and_sockets_are_those_of_the_loopback() -> None:
    """Names of machines and interfaces that are not here."""
    left = (
        "MASTER_ADDR",
        "MASTER_PORT",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "TORCHELASTIC_RUN_ID",
        "NCCL_COMM_ID",
        "PET_NNODES",
    )
    os.environ.update(dict.fromkeys(left, "nonsense"), GLOO_SOCKET_IFNAME="eth9", NCCL_SOCKET_IFNAME="eth9")
    inherited.settle()
    assert not {*left, "NCCL_SOCKET_IFNAME"} & {*os.environ}
    assert os.environ["GLOO_SOCKET_IFNAME"] == inherited.LOOPBACK
