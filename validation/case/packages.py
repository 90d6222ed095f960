"""The packages that must be installed, and what a Python without them is told. Speaks where they are missing: imports none."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec

from validation.case import tree
from validation.case.errors import EnvironmentMissing

NEEDED = ("torch", "transformers", "megatron-core", "safetensors", "numpy", "pytest", "junitparser", "pyyaml", "packaging")
"""Without one of these no case runs."""
OF_THE_PIPELINE = ("pyyaml", "junitparser", "packaging", "pytest")
"""What `python -m ci` needs (requirements/ci.txt)."""
OF_SETTINGS: Mapping[str, str] = {"ddp.num_distributed_optimizer_instances": "einops"}
"""Settings without a kernel that need a package which requirements do not bring, above 1."""
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


def of_settings(settings: Iterable[tuple[str, object]]) -> Iterator[str]:
    """What settings lack, a sentence each."""
    for name, value in settings:
        package = OF_SETTINGS.get(name)
        if package and value != 1 and find_spec(package) is None:
            lacks = f"needs {package}, which is not installed for {sys.executable}"
            yield f"{name}={value} {lacks}; `pip install {package}` brings it"


def _installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
