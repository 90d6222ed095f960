"""The packages that must be installed, and what a Python without them is told. Speaks where they are missing: imports none."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

from validation.case import tree
from validation.case.errors import EnvironmentMissing

NEEDED = ("torch", "transformers", "megatron-core", "safetensors", "numpy", "pytest", "junitparser", "pyyaml", "packaging")
"""Without one of these no case runs."""
OF_THE_PIPELINE = ("pyyaml", "junitparser", "packaging", "pytest")
"""What `python -m ci` needs (requirements/ci.txt)."""


@dataclass(frozen=True)
class Package:
    """What Megatron-Core imports for a setting, and requirements do not bring.

    `modules` are what it imports, each of which will do, `name` is what a sentence calls them, and `brings` what would help.
    `unused_at` are the values of the setting at which nothing is imported.
    """

    modules: tuple[str, ...]
    name: str
    brings: str
    unused_at: tuple[object, ...] = (False, None)

    @property
    def is_here(self) -> bool:
        """Whether one can be imported, by what stands where."""
        return any(find_spec(module) is not None for module in self.modules)


_APEX = Package(
    ("fused_weight_gradient_mlp_cuda",),
    "fused_weight_gradient_mlp_cuda of APEX",
    "APEX built with --cpp_ext and --cuda_ext brings it, and without that setting the case runs",
)
_DEEPEP = Package(("deep_ep",), "deep_ep", "DeepEP (https://github.com/deepseek-ai/DeepEP) brings it, built for this GPU")
OF_SETTINGS: Mapping[str, Package] = {
    "ddp.num_distributed_optimizer_instances": Package(("einops",), "einops", "`pip install einops` brings it", (1, None)),
    "model.attention_backend": Package(
        ("flash_attn", "flash_attn_interface", "flash_attn_3"),
        "flash_attn",
        "a wheel of FlashAttention for this torch and GPU brings it, and model.attention_backend=auto takes what there is",
        ("auto", "fused", "unfused", "local", None),
    ),
    "model.gradient_accumulation_fusion": _APEX,
    "model.defer_embedding_wgrad_compute": _APEX,
    "model.moe_token_dispatcher_type": replace(_DEEPEP, unused_at=("alltoall", "allgather", "alltoall_seq")),
    "model.moe_enable_deepep": _DEEPEP,
    "model.moe_use_legacy_grouped_gemm": Package(
        ("grouped_gemm",), "grouped_gemm", "`pip install git+https://github.com/fanshiqing/grouped_gemm` brings it"
    ),
}
"""Settings that end in an ImportError, or in another error of Megatron-Core's, without the package."""
OF_NEEDS: Mapping[str, Package] = {"deepep": _DEEPEP}
"""What stands behind a need of the table of fields, whatever the setting."""
_IMPORTED_AS = {"megatron": "megatron-core", "yaml": "pyyaml"}


@contextlib.contextmanager
def asked_for(packages: Sequence[str], requirements: str) -> Iterator[None]:
    """Within it the import of one that is missing raises EnvironmentMissing, which names all that are.

    Most commands need some of them alone, and say so by importing them. Any other import that fails is a defect.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        missing = [name for name in packages if not _installed(name)]
        if _IMPORTED_AS.get(module, module) not in missing:
            raise
        raise EnvironmentMissing(sentence(missing, "cpu", requirements)) from error


def sentence(missing: Sequence[str], environment: str, requirements: str) -> str:
    """What is missing, and what would do: the environment of nox's that has it, or the file that brings it."""
    said, brings = (
        f"{', '.join(missing)}: not installed for {sys.executable}",
        f"pip install -r {tree.requirements(requirements)}",
    )
    if tree.INSTALLED:
        return f"{said}; `{brings}` brings what is missing"
    return f"{said}; `. .nox/{environment}/bin/activate` has what nox installed, and `{brings}` brings what is missing"


def lacking(name: str, value: object) -> Package | None:
    """The package that a setting with this value needs and that is not here; None if there is none."""
    package = OF_SETTINGS.get(name)
    return package if package is not None and value not in package.unused_at and not package.is_here else None


def of_settings(settings: Iterable[tuple[str, object]]) -> Iterator[str]:
    """What settings lack, a sentence each."""
    for name, value in settings:
        if package := lacking(name, value):
            said = "true" if value is True else value
            yield f"{name}={said} needs {package.name}, which is not installed for {sys.executable}; {package.brings}"


def _installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
