"""A fault of one layer is put in where that layer lies: in no other stage, and nowhere in a model without it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from validation.faults.inject import layer
from validation.run.calls import Calls
from validation.run.plugin import Elsewhere, PluginBroke, _named
from validation.run.replaced import Replaced


def stage(*numbers: int) -> list[Any]:
    """Chunks of a model of four layers that have these."""
    held = [SimpleNamespace(layer_number=number + 1) for number in numbers]
    return [SimpleNamespace(decoder=SimpleNamespace(layers=held), config=SimpleNamespace(num_layers=4))]


def test_a_layer_is_found_by_its_number_in_the_whole_model() -> None:
    assert layer(stage(2, 3), 3).layer_number == 4
    with pytest.raises(Elsewhere):
        layer(stage(2, 3), 1)
    with pytest.raises(KeyError, match="layer 4"):
        layer(stage(2, 3), 4)


def test_a_function_whose_layer_lies_elsewhere_ends_without_a_word() -> None:
    """Any other mistake is the plugin's."""
    found: list[int] = []
    calls = Calls()

    def loaded(model: list[Any], number: int) -> None:
        found.append(layer(model, number).layer_number)

    called = _named("a fault", "loaded", loaded, Replaced(watching=False), calls)
    called(stage(0), 1)
    assert (calls.did, calls.elsewhere) == (set(), {"loaded": "layer 1"})
    for numbers in ((1,), (2,)):
        called(stage(*numbers), 1)
    assert (found, calls.did) == ([2], {"loaded"})
    with pytest.raises(PluginBroke, match=r"its loaded raised KeyError\('layer 7'\)"):
        called(stage(0), 7)


def test_a_kernel_s_failure_is_not_said_to_be_the_plugin_s() -> None:
    """CUDA tells it at a later call, and that may be any."""

    def loaded(case: Any, model: Any) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    with pytest.raises(torch.AcceleratorError, match="CUDA error"):
        _named("p.py", "loaded", loaded, Replaced(watching=False), Calls())(None, None)
