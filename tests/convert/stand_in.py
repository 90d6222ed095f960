"""A stand-in for Transformer Engine where there is none: its modules with their parameters and extra states, and nothing else.

megatron-core's own classes on top of it then say how a Transformer Engine model is saved. What a module of Transformer Engine
2 holds is read from its source: https://github.com/NVIDIA/TransformerEngine/tree/v2.11/transformer_engine/pytorch
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from typing import Any

import torch


class Module(torch.nn.Module):
    """Every module has an extra state, a byte tensor that is empty where nothing is computed in fp8."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.fp8_meta: dict[str, Any] = {"fp8_checkpoint": False}
        self.fp8 = self.fp8_calibration = False

    def get_extra_state(self) -> torch.Tensor:
        """As where nothing was computed in fp8."""
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Nothing is in it."""


def _cut(in_features: int, out_features: int, mode: str | None, size: int) -> tuple[int, int]:
    return (out_features // size if mode == "column" else out_features, in_features // size if mode == "row" else in_features)


class Linear(Module):
    """A weight."""

    def __init__(self, in_features: int, out_features: int, **given: Any) -> None:
        super().__init__()
        shape = _cut(in_features, out_features, given.get("parallel_mode"), given.get("tp_size", 1) or 1)
        self.in_features, self.out_features, self.use_bias, self.tp_size = (
            in_features,
            out_features,
            False,
            given.get("tp_size", 1),
        )
        self.parallel_mode = given.get("parallel_mode")
        self.weight = torch.nn.Parameter(torch.empty(shape, dtype=given.get("params_dtype")))


class LayerNormLinear(Linear):
    """A weight, and that of the norm before it."""

    def __init__(self, in_features: int, out_features: int, **given: Any) -> None:
        super().__init__(in_features, out_features, **given)
        self.layer_norm_weight = torch.nn.Parameter(torch.empty(in_features, dtype=given.get("params_dtype")))


class GroupedLinear(Module):
    """A weight for each expert."""

    def __init__(self, num_gemms: int, in_features: int, out_features: int, **given: Any) -> None:
        super().__init__()
        self.num_gemms, self.use_bias, self.tp_size = num_gemms, False, given.get("tp_size", 1)
        shape = _cut(in_features, out_features, given.get("parallel_mode"), given.get("tp_size", 1) or 1)
        for index in range(num_gemms):
            self.register_parameter(f"weight{index}", torch.nn.Parameter(torch.empty(shape, dtype=given.get("params_dtype"))))

    def init_fp8_metadata(self, num_gemms: int = 1) -> None:
        """There is none."""


class RMSNorm(Module):
    """A weight."""

    def __init__(self, normalized_shape: Any = None, **given: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(given.get("hidden_size", normalized_shape)))


class DotProductAttention(Module):
    """No weight."""


class _Package(types.ModuleType):
    """Whatever else is imported from it is an empty class."""

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """As get_cpu_offload_context, the one function that is called while a model is built."""
        return None, None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made: Any = importlib.import_module(f"{self.__name__}.{name}") if name[0].islower() else type(name, (Module,), {})
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module of the package."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        found = name.partition(".")[0] == "transformer_engine"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if found else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Package(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__ == "transformer_engine":
            vars(module)["__version__"] = "2.11.0"
        if module.__name__ == "transformer_engine.pytorch":
            vars(module).update({made.__name__: made for made in (Linear, LayerNormLinear, GroupedLinear, RMSNorm)})
            vars(module)["DotProductAttention"] = DotProductAttention


def install() -> None:
    """Before megatron.core is imported."""
    sys.meta_path.insert(0, _Finder())
