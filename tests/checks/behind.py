"""A second error behind a known upstream bug, as a plugin: `gradient=NAME*FACTOR`, `balance*FACTOR` or `norm*FACTOR`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from validation.case.case import Case
from validation.faults.inject import after_finalizing, replace


def plugin(argument: str) -> Any:
    """The error that the argument names; it is an error of its own if nothing is there to be made wrong."""
    what, _, factor = argument.partition("*")
    name = what.partition("=")[2]
    makers: dict[str, Callable[..., Any]] = {"gradient": _Gradient, "balance": _Balance, "norm": _Norm}
    return makers[what.partition("=")[0]](name, float(factor))


class _Gradient:
    """The gradients of all parameters with this in their name, after they have been reduced, times a factor."""

    def __init__(self, name: str, factor: float) -> None:
        self._name, self._factor = name, factor

    def configure(self, case: Case, config: Any) -> None:
        after_finalizing(self._change)

    def _change(self, chunks: Any) -> None:
        found = [weight for chunk in chunks for name, weight in chunk.named_parameters() if self._name in name]
        if not found:
            raise LookupError(f"no parameter of this rank has {self._name} in its name")
        for weight in found:
            weight.main_grad *= self._factor


class _Balance:
    """What a balancing loss sends back, times a factor."""

    def __init__(self, name: str, factor: float) -> None:
        self._factor = factor

    def configure(self, case: Case, config: Any) -> None:
        def made(sound: Callable[..., Any]) -> Callable[..., Any]:
            def backward(*given: Any) -> tuple[Any, ...]:
                *others, balance = sound(*given)
                return (*others, balance * self._factor)

            return backward

        replace("megatron.core.transformer.moe.moe_utils", "MoEAuxLossAutoScaler.backward", made)


class _Norm:
    """The query latent's norm, times a factor in the output and with a weight that is right."""

    def __init__(self, name: str, factor: float) -> None:
        self._factor = factor

    def built(self, case: Case, model: Any) -> None:
        for chunk in model:
            for name, module in chunk.named_modules():
                if name.endswith("q_layernorm") and isinstance(module, torch.nn.RMSNorm):
                    module.register_forward_hook(lambda module, given, output: output * self._factor)
