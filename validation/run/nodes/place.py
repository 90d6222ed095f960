"""Which node of how many this process is: as options say, or as the launcher's variables do. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.strangers import shown

MOST = 1024
"""Nodes of a run."""
AUTO, DSW, DLC, TORCHRUN, TORCHRUN_OPTIONS, SLURM = "auto", "dsw", "dlc", "torchrun", "torchrun-options", "slurm"
CLUSTERS = (AUTO, DSW, DLC, TORCHRUN, SLURM)
"""What `--cluster` takes. dsw and dlc are one machine and a PyTorchJob, as launch scripts of Megatron-LM call them."""
TOKEN = "PLUMBLINE_TOKEN"
"""Holds the secret by which nodes know each other. A variable: options of a process can be read by every user."""
_PORTS = range(1, 1 << 16)
_SLURMS_PORTS = range(20_000, 40_000)
"""Below those that Linux gives to outgoing connections."""


@dataclass(frozen=True)
class Place:
    """This process is node `rank` of `count`, and node 0 listens on `host:port`.

    `agent` says that host and port are those of torchrun's store, in which node 0 leaves its own port. `source` says where all
    of it comes from.
    """

    count: int = 1
    rank: int = 0
    host: str = ""
    port: int = 0
    agent: bool = False
    source: str = ""

    @property
    def several(self) -> bool:
        """Whether there is more than this machine."""
        return self.count > 1

    @property
    def follows(self) -> bool:
        """Whether another node leads."""
        return self.several and self.rank > 0

    @property
    def endpoint(self) -> str:
        """As `--rdzv-endpoint` takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


ONE = Place()
"""A machine by itself."""


def place(options: Any, variables: Mapping[str, str]) -> Place:
    """What the options say, and if they say nothing the variables. Raises UsageError."""
    given = {name: getattr(options, name, None) for name in ("nnodes", "node_rank", "rdzv_endpoint")}
    cluster = getattr(options, "cluster", AUTO)
    if any(value is not None for value in given.values()):
        if cluster not in (AUTO, DSW):
            raise UsageError(f"--cluster {cluster} and --nnodes, --node-rank or --rdzv-endpoint both name the nodes; give one")
        return _by_options(given)
    if cluster == AUTO:
        cluster = _found(variables)
    found = _READERS[cluster](variables) if cluster in _READERS else ONE
    return found if found.several else ONE


def _by_options(given: Mapping[str, Any]) -> Place:
    count, rank, endpoint = given["nnodes"], given["node_rank"], given["rdzv_endpoint"]
    if count == 1 and not rank:
        return ONE
    missing = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is None]
    if missing:
        raise UsageError(f"{', '.join(missing)}: missing; give --nnodes 2 --node-rank 0 --rdzv-endpoint HOST:PORT")
    host, port = _address(endpoint, "--rdzv-endpoint")
    return _checked(Place(count, rank, host, port, source="--nnodes"), "--nnodes", "--node-rank")


def _checked(found: Place, count: str, rank: str) -> Place:
    if not 1 <= found.count <= MOST:
        raise UsageError(f"{count} {found.count}: give 1 to {MOST} nodes")
    if not 0 <= found.rank < found.count:
        raise UsageError(f"{rank} {found.rank}: {many(found.count, 'node')} are numbered 0 to {found.count - 1}")
    return found


def _address(text: str, name: str) -> tuple[str, int]:
    """Host and port; an IPv6 address stands in brackets."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([\w.-]+)):([0-9]{1,5})", text.strip())
    if found is None or int(found[3]) not in _PORTS:
        raise UsageError(f"{name} {shown(text)}: give HOST:PORT of node 0, such as 10.0.0.1:29500")
    return found[1] or found[2], int(found[3])


def _found(variables: Mapping[str, str]) -> str:
    """The launcher whose variables speak of several nodes. What is left over from another program speaks of one, or of none."""
    if variables.get("TORCHELASTIC_RUN_ID") and _more(variables.get("GROUP_WORLD_SIZE")):
        return TORCHRUN
    if "GROUP_WORLD_SIZE" not in variables and _more(variables.get("PET_NNODES", "").partition(":")[0]):
        return TORCHRUN_OPTIONS
    if _more(variables.get("SLURM_STEP_NUM_NODES")):
        return SLURM
    in_a_pod = "KUBERNETES_SERVICE_HOST" in variables or "KUBERNETES_CONTAINER_RESOURCE_GPU" in variables
    a_node = _more(variables.get("WORLD_SIZE")) and {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= variables.keys()
    return DLC if in_a_pod and a_node and "LOCAL_RANK" not in variables else DSW


def _more(text: str | None) -> bool:
    return bool(text) and str(text).isdecimal() and int(str(text)) > 1


def _dlc(variables: Mapping[str, str]) -> Place:
    """A PyTorchJob: WORLD_SIZE counts its pods there, and RANK is the pod's number."""
    return _of_numbers(variables, ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"), "a PyTorchJob")


def _torchrun(variables: Mapping[str, str]) -> Place:
    """A process that torchrun has started: the group is the node, and the store of torchrun's agent is where they meet."""
    found = _of_numbers(variables, ("GROUP_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"), "torchrun")
    _alone(variables.get("LOCAL_WORLD_SIZE", "1"), "torchrun", "--nproc-per-node 1")
    if variables.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return found
    return Place(found.count, found.rank, found.host, found.port, agent=True, source=found.source)


def _torchrun_options(variables: Mapping[str, str]) -> Place:
    """Torchrun's own options as variables, as a TrainJob sets them."""
    endpoint = variables.get("PET_RDZV_ENDPOINT", "")
    host, _, port = endpoint.rpartition(":")
    counted = {"PET_NNODES": variables.get("PET_NNODES", "").rpartition(":")[2]}
    met = {"PET_MASTER_ADDR": host, "PET_MASTER_PORT": port} if endpoint else {}
    names = ("PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")
    return _of_numbers({**met, **variables, **counted}, names, "PET_ variables")


def _slurm(variables: Mapping[str, str]) -> Place:
    """A task of srun. The first node of the step leads; the step has a port of its own."""
    names = ("SLURM_STEP_NUM_NODES", "SLURM_NODEID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID", "SLURM_STEP_ID")
    _all_there(variables, names, "srun")
    _alone(variables.get("SLURM_STEP_TASKS_PER_NODE", "1").partition("(")[0], "srun", "--ntasks-per-node=1")
    from validation.run.nodes import slurm_names

    port = _SLURMS_PORTS[(_number(variables, "SLURM_JOB_ID") * 7 + _number(variables, "SLURM_STEP_ID")) % len(_SLURMS_PORTS)]
    count, rank = (_number(variables, name) for name in names[:2])
    host = slurm_names.address(variables["SLURM_STEP_NODELIST"])
    return _checked(Place(count, rank, host, port, source="srun"), *names[:2])


_READERS = {DLC: _dlc, TORCHRUN: _torchrun, TORCHRUN_OPTIONS: _torchrun_options, SLURM: _slurm}


def _of_numbers(variables: Mapping[str, str], names: tuple[str, str, str, str], who: str) -> Place:
    """From the variables that count nodes, number this one, and say where node 0 is."""
    _all_there(variables, names, who)
    counts, ranks, hosts, ports = names
    host, port = _address(_in_brackets(variables[hosts]) + f":{variables[ports]}", f"{hosts}:{ports}")
    return _checked(Place(_number(variables, counts), _number(variables, ranks), host, port, source=who), counts, ranks)


def _in_brackets(host: str) -> str:
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def _all_there(variables: Mapping[str, str], names: tuple[str, ...], who: str) -> None:
    if missing := [name for name in names if not variables.get(name)]:
        raise UsageError(
            f"{', '.join(missing)}: not set, and {who} would set {'it' if len(missing) == 1 else 'them'}; name the nodes "
            "with --nnodes 2 --node-rank 0 --rdzv-endpoint HOST:PORT, or give --cluster dsw for this machine alone"
        )


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables[name]
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(f"${name} is {shown(text)}, no number; give --nnodes, --node-rank and --rdzv-endpoint")
    return int(text)


def _alone(tasks: str, who: str, option: str) -> None:
    if _more(tasks):
        raise UsageError(
            f"{who} starts {tasks} processes on this node, and Plumbline starts its ranks by itself; "
            f"give {who} the option {option}"
        )
