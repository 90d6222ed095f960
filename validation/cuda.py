"""What GPU cases need of this machine beside the GPUs, said before anything starts. No torch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

from validation.case import tree
from validation.case.errors import EnvironmentMissing
from validation.machine import ABSENT, NVML, Unasked, compute_capability, driver, drivers_cuda, nvml, torchs_cuda, version


def check(transport: str) -> None:
    """Returns where torch is built for CUDA and the driver runs it, and ranks over `transport` find GPUs.

    Raises EnvironmentMissing.
    """
    if sentence := problem(torchs_cuda(), drivers_cuda()) or unasked(nvml(), transport):
        raise EnvironmentMissing(sentence)


def unasked(found: Unasked | None, transport: str) -> str | None:
    """What a driver that cannot be asked for its GPUs keeps from running; None for nothing.

    A container may have CUDA without the management library. NCCL opens that itself.
    """
    if found is None or (transport != "nccl" and not found.there):
        return None
    if found.there:
        return (
            f"the NVIDIA driver does not answer ({found.why}); after an update of the driver restart the machine, and "
            "`nvidia-smi` says whether it is right; --transport gloo runs on the CPU"
        )
    return (
        f"NCCL finds GPUs through {NVML}, which cannot be loaded here ({found.why}); a container has it with "
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility; --transport staged runs without it"
    )


def problem(torchs: str | None, drivers: str | None) -> str | None:
    """What keeps a torch built for CUDA `torchs` from a driver for CUDA `drivers`; None for nothing that could be seen.

    A driver runs every CUDA of its own major version and those before it, whatever the minor versions are.
    https://docs.nvidia.com/deploy/cuda-compatibility/
    """
    if torchs is None:
        return (
            f"torch {version('torch')} is a CPU build, which no GPU case can run on; `pip install --force-reinstall -r "
            f"{tree.requirements('cuda')}` from an index that serves CUDA builds brings another, and --transport gloo runs on "
            "the CPU"
        )
    if drivers is None or _major(drivers) >= _major(torchs):
        return None
    return (
        f"the NVIDIA driver {driver()} runs CUDA up to {drivers} and torch {version('torch')} is built for CUDA {torchs}; "
        f"a driver for CUDA {_major(torchs)} works, or a torch built for CUDA {_major(drivers)} (2.11 to 2.13 are run)"
    )


_FP8_NEEDS = {"delayed": ((8, 9), (12, 1)), "blockwise": ((9, 0), (12, 9))}
"""The compute capability and torch's CUDA that Transformer Engine asks for (check_fp8_support in its quantization.py)."""


def check_fp8(fp8: str) -> None:
    """Returns where the GPUs have products in fp8, scaled like that. Raises EnvironmentMissing."""
    if sentence := fp8_problem(fp8, compute_capability(), torchs_cuda()):
        raise EnvironmentMissing(sentence)


def fp8_problem(fp8: str, capability: tuple[int, int] | None, torchs: str | None) -> str | None:
    """What keeps GPUs of this compute capability from it; None for nothing that could be seen."""
    if fp8 not in _FP8_NEEDS:
        return None
    needed, oldest = _FP8_NEEDS[fp8]
    if capability is not None and capability < needed:
        return (
            f"+fp8-{fp8} needs GPUs of compute capability {_written(needed)} (Ada has 8.9, Hopper 9.0) and these have "
            f"{_written(capability)}; without it the same layouts run in bf16"
        )
    if torchs is not None and tuple(map(int, torchs.split("."))) < oldest:
        return f"+fp8-{fp8} needs a torch built for CUDA {_written(oldest)} or newer and this one is built for {torchs}"
    return None


def _written(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def _major(cuda: str) -> int:
    return int(cuda.partition(".")[0])


def find_transformer_engine() -> None:
    """Transformer Engine must be there with its PyTorch part; whether it can be imported is seen in the ranks.

    Raises EnvironmentMissing.
    """
    if sentence := te_problem():
        raise EnvironmentMissing(f"{sentence}, and --implementation te needs it; --implementation local runs without it")


def has_te_for_torch() -> bool:
    """Whether Transformer Engine's PyTorch part is there: a distribution, whose library lies inside the other's package."""
    return version("transformer-engine-torch") != ABSENT or importlib.util.find_spec("transformer_engine_torch") is not None


def te_problem() -> str | None:
    """What is missing of Transformer Engine; None where nothing is."""
    if version("transformer-engine") == ABSENT and importlib.util.find_spec("transformer_engine") is None:
        return f"Transformer Engine is not installed (`pip install --no-build-isolation -r {tree.requirements('te')}`)"
    if not has_te_for_torch():
        return (
            f"Transformer Engine {version('transformer-engine')} is installed without its PyTorch part "
            "(`pip install --no-build-isolation transformer-engine[pytorch]`)"
        )
    return None


def why_not_imported(module: str) -> str | None:
    """The last line that Python says about it, in a process of its own; None where the import works."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return "it hangs"
    if done.returncode == 0:
        return None
    return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit status {done.returncode}")


def imports_initialise_cuda() -> bool:
    """Whether importing what ranks need would use a GPU: a process that has done so can start no rank by forking.

    Of Transformer Engine's modules one asks for the GPU's compute capability when it is imported, where flash-attn is
    installed. https://github.com/NVIDIA/TransformerEngine/blob/v2.11/transformer_engine/pytorch/attention/dot_product_attention/backends.py
    Since 2.20 it imports flash-attn-4, too, which uses the GPU. It asks the same where grouped products are to be fused.
    https://github.com/NVIDIA/TransformerEngine/blob/v2.20/transformer_engine/pytorch/ops/fused/grouped_mlp.py
    megatron-core asks torch whether there are GPUs. torch asks NVML first, and CUDA itself without it.
    """
    if nvml() is not None:
        return True
    flash = any(version(package) != ABSENT for package in ("flash-attn", "flash-attn-4"))
    fused = os.environ.get(_FUSED_GROUPED, "0") not in ("", "0")
    return (flash or fused) and importlib.util.find_spec("transformer_engine") is not None


_FUSED_GROUPED = "NVTE_CUTEDSL_FUSED_GROUPED_MLP"
"""A variable of Transformer Engine's, without which megatron-core refuses `use_transformer_engine_op_fuser`."""
