"""What the processes of a run inherit from whoever starts it, and must not decide how the run ends: environment variables.

Set before torch is imported anywhere. A variable that is left over from a launcher, a scheduler or a shell's start file is
meant for another program.
"""

from __future__ import annotations

import os

from validation.case import interpreter

LOOPBACK = "lo"
"""The name of the loopback interface, on every Linux."""
_ONE_THREAD = ("OMP", "MKL", "OPENBLAS", "GOTO", "BLIS", "NUMEXPR", "RAYON")
"""Libraries that read NAME_NUM_THREADS when they are loaded.

torch takes the larger of OMP's and MKL's. A fork of a process with a pool of threads hangs: the fork server has none, and
ranks that have the machine to themselves ask for more.
"""
_LEFT_OUT = (
    # More threads by another name.
    "MKL_DOMAIN_NUM_THREADS",
    # Threads that are bound to cores: the fork server would be bound to the first, and every rank with it.
    *("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_HW_SUBSET"),
    # Where ranks meet, and through what they talk: all are on this machine, and elastic tells them where.
    *("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "NCCL_COMM_ID", "NCCL_SOCKET_IFNAME", "NCCL_SOCKET_FAMILY"),
    "GLOO_DEVICE_TRANSPORT",
)
_LAUNCHERS = ("TORCHELASTIC_", "PET_")


def settle() -> None:
    """Set them for this process and for all that it starts."""
    for name in [name for name in os.environ if name in _LEFT_OUT or name.startswith(_LAUNCHERS)]:
        del os.environ[name]
    os.environ.update({f"{library}_NUM_THREADS": "1" for library in _ONE_THREAD}, VECLIB_MAXIMUM_THREADS="1")
    # By default gloo listens where the machine's own name leads, which another machine may answer to, or nobody.
    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
    interpreter.settle()
