"""Which node this is: by options, by a launcher's variables, and by nothing that another program left."""

from __future__ import annotations

import socket
import subprocess
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import pytest

from validation.case.errors import UsageError
from validation.run.nodes import slurm_names
from validation.run.nodes.place import ONE, Place, place

DLC = {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "GROUP_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "WORLD_SIZE": "2",
    "RANK": "1",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "10.0.0.[7-8]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_NODEID": "1",
}
TRAINJOB = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "29400"}


def found(variables: Mapping[str, str] | None = None, cluster: str = "auto", **options: Any) -> Place:
    given = {"nnodes": None, "node_rank": None, "rdzv_endpoint": None, "cluster": cluster, **options}
    return place(Namespace(**given), variables or {})


def test_options_name_the_node() -> None:
    assert found(nnodes=2, node_rank=1, rdzv_endpoint="10.0.0.1:29500") == Place(2, 1, "10.0.0.1", 29500, source="--nnodes")
    ipv6 = found(nnodes=2, node_rank=0, rdzv_endpoint="[fe80::1]:29500")
    assert (ipv6.host, ipv6.endpoint) == ("fe80::1", "[fe80::1]:29500")


def test_one_node_is_a_machine_by_itself() -> None:
    assert found() == found(nnodes=1) == found(nnodes=1, node_rank=0) == ONE
    assert not ONE.several


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        pytest.param(TORCHRUN, Place(2, 1, "10.0.0.1", 29500, agent=True, source="torchrun"), id="torchrun"),
        pytest.param(SRUN, Place(2, 1, "10.0.0.7", 20539, source="srun"), id="srun"),
        pytest.param(TRAINJOB, Place(2, 1, "job-node-0-0.job", 29400, source="PET_ variables"), id="TrainJob"),
        pytest.param(
            {"PET_NNODES": "2:2", "PET_NODE_RANK": "0", "PET_RDZV_ENDPOINT": "h:1"},
            Place(2, 0, "h", 1, source="PET_ variables"),
            id="an elastic job",
        ),
        pytest.param(
            {**DLC, "KUBERNETES_SERVICE_HOST": "10.1.0.1"}, Place(4, 3, "job-master-0", 23456, source="a PyTorchJob"), id="pod"
        ),
    ],
)
def test_a_launchers_variables_name_the_node(variables: Mapping[str, str], said: Place) -> None:
    assert found(variables) == said


def test_dlc_counts_nodes_with_world_size_and_dsw_is_one_machine() -> None:
    assert found(DLC, "dlc") == Place(4, 3, "job-master-0", 23456, source="a PyTorchJob")
    assert found(DLC, "dsw") == ONE
    assert found({**TORCHRUN, **SRUN}, "dsw") == ONE


@pytest.mark.parametrize(
    "left",
    [
        DLC,
        {**DLC, "LOCAL_RANK": "1", "KUBERNETES_SERVICE_HOST": "10.1.0.1"},
        {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_PROCID": "0"},
        {**TORCHRUN, "GROUP_WORLD_SIZE": "1"},
        {"PET_NNODES": "nonsense"},
        {"GROUP_WORLD_SIZE": "2"},
        {"SLURM_STEP_NUM_NODES": "1"},
    ],
)
def test_what_another_program_left_is_no_node(left: Mapping[str, str]) -> None:
    """An allocation without srun, ranks of another job, a launcher of one machine."""
    assert found(left) == ONE


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nnodes": 2}, "--node-rank, --rdzv-endpoint: missing; give --nnodes 2 --node-rank 0 --rdzv-endpoint HOST:PORT"),
        ({"node_rank": 1}, "--nnodes, --rdzv-endpoint: missing"),
        ({"nnodes": 2, "node_rank": 2, "rdzv_endpoint": "h:1"}, "--node-rank 2: 2 nodes are numbered 0 to 1"),
        ({"nnodes": 0, "node_rank": 0, "rdzv_endpoint": "h:1"}, "--nnodes 0: give 1 to 1024 nodes"),
        ({"nnodes": 2, "node_rank": -1, "rdzv_endpoint": "h:1"}, "--node-rank -1: 2 nodes are numbered 0 to 1"),
        ({"nnodes": 2, "node_rank": 0, "rdzv_endpoint": "h"}, "--rdzv-endpoint h: give HOST:PORT of node 0"),
        ({"nnodes": 2, "node_rank": 0, "rdzv_endpoint": "h:70000"}, "--rdzv-endpoint h:70000: give HOST:PORT"),
        ({"nnodes": 2, "cluster": "dlc"}, "--cluster dlc and --nnodes, --node-rank or --rdzv-endpoint both name the nodes"),
    ],
)
def test_options_that_name_no_node_are_refused(options: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        found(**options)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("variables", "cluster", "said"),
    [
        ({}, "dlc", "WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT: not set, and a PyTorchJob would set them"),
        ({**DLC, "RANK": ""}, "dlc", "RANK: not set, and a PyTorchJob would set it"),
        ({**DLC, "RANK": "4"}, "dlc", "RANK 4: 4 nodes are numbered 0 to 3"),
        ({**DLC, "WORLD_SIZE": "many"}, "dlc", "$WORLD_SIZE is many, no number"),
        ({}, "slurm", "SLURM_STEP_NUM_NODES, "),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "8"}, "auto", "torchrun starts 8 processes on this node"),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, "auto", "srun starts 8 processes on this node"),
    ],
)
def test_variables_that_name_no_node_are_refused(variables: Mapping[str, str], cluster: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        found(variables, cluster)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("names", "first"),
    [("n1", "n1"), ("n[01-04,9],m1", "n01"), ("gpu-a[7]", "gpu-a7"), ("a1,b2", "a1"), ("r[1-2]n[3-4]", "r1")],
)
def test_the_first_of_slurms_nodes_is_found(names: str, first: str) -> None:
    assert slurm_names.first(names) == first


def test_a_name_of_slurms_that_leads_nowhere_is_looked_up_where_slurm_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*given: object) -> None:
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    answer = Namespace(stdout="NodeName=n1 Arch=x86_64 NodeAddr=127.0.0.1 NodeHostName=box State=IDLE")
    monkeypatch.setattr(subprocess, "run", lambda *given, **named: answer)
    assert slurm_names.address("n[1-2]") == "127.0.0.1"
    answer.stdout = ""
    with pytest.raises(UsageError, match=r"^the name n1 of Slurm's first node leads nowhere"):
        slurm_names.address("n[1-2]")
