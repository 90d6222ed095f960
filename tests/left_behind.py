"""What a test module changes in this process and does not put back: later tests trip over it, those on a GPU first."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

_WATCHED = ("torch", "torch.cuda", "torch.cuda.random", "torch.distributed", "torch.autograd", "torch.random")
_PYTESTS = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION")


@dataclass(frozen=True)
class Snapshot:
    """The environment, functions and classes of torch and megatron-core by name, and torch's switches.

    Of torch and megatron-core there is nothing where nobody has imported them.
    """

    environment: dict[str, str]
    functions: dict[str, Any]
    switches: dict[str, Any]

    @classmethod
    def take(cls) -> Snapshot:
        """As things are now."""
        environment = {name: value for name, value in os.environ.items() if name not in _PYTESTS}
        return cls(environment, dict(_functions()), dict(_switches()))

    def left_behind(self, now: Snapshot) -> list[str]:
        """What is otherwise `now`, a few words each. What has only been imported since is no difference."""
        names = sorted({*self.environment, *now.environment})
        found = [name for name in names if self.environment.get(name) != now.environment.get(name)]
        changed = [f"${name} is {now.environment.get(name)!r} and was {self.environment.get(name)!r}" for name in found]
        both = self.functions.keys() & now.functions.keys()
        other = [name for name in sorted(both) if self.functions[name] is not now.functions[name]]
        changed += [f"{name} is replaced" for name in other if not _is_of(name.partition(".")[0], now.functions[name])]
        both = self.switches.keys() & now.switches.keys()
        ours = [(name, self.switches[name], now.switches[name]) for name in sorted(both)]
        return changed + [f"{name} is {there} and was {before}" for name, before, there in ours if before != there]

    def stand_ins(self) -> list[str]:
        """Names of torch's that something of ours stands in for."""
        return [
            name
            for name, value in sorted(self.functions.items())
            if name.startswith("torch.") and (_is_of("validation", value) or _is_of("tests", value))
        ]


def _is_of(package: str, function: Any) -> bool:
    """Whether it is the package's own: torch replaces functions of its own when it imports more of itself."""
    return str(getattr(function, "__module__", "")).partition(".")[0] == package


def _functions() -> Iterator[tuple[str, Any]]:
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and (name in _WATCHED or name.startswith("megatron.core")):
            yield from ((f"{name}.{word}", value) for word, value in vars(module).items() if callable(value))
    if torch := sys.modules.get("torch"):
        methods = {word: value for kind in reversed(torch.Tensor.__mro__) for word, value in vars(kind).items()}
        yield from ((f"torch.Tensor.{word}", value) for word, value in methods.items() if callable(value))


def _switches() -> Iterator[tuple[str, Any]]:
    """What torch has one of in a process."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return
    yield "torch's default dtype", torch.get_default_dtype()
    yield "torch's default device", torch.get_default_device()
    yield "torch's number of threads", torch.get_num_threads()
    yield "torch's gradient mode", torch.is_grad_enabled()
    yield "torch's deterministic mode", torch.get_deterministic_debug_mode()
    yield "torch's filling of memory", torch.utils.deterministic.fill_uninitialized_memory
    yield "torch.backends.cuda.matmul.allow_tf32", torch.backends.cuda.matmul.allow_tf32
    yield "torch.backends.cudnn.allow_tf32", torch.backends.cudnn.allow_tf32
    yield "torch.backends.cudnn.benchmark", torch.backends.cudnn.benchmark
    yield "a process group", torch.distributed.is_available() and torch.distributed.is_initialized()
    if parallel := sys.modules.get("megatron.core.parallel_state"):
        yield "megatron-core's parallel state", parallel.model_parallel_is_initialized()
