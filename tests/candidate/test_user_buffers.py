"""User buffers are made as a training script makes them, once, and without NVLink's multicast if that is off."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import core  # noqa: F401 - before megatron-core
from validation.candidate import build, user_buffers
from validation.case.case import Case
from validation.run.options import parsed


def case(layout: str, implementation: str = "te") -> Case:
    words = ("--preset", "mini", "--implementation", implementation, "--precision", "bf16", "--transport", "nccl")
    return parsed([*words, "--layouts", layout, "--micro-batch-size", "2"]).cases[0]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a stand-in for Transformer Engine 2.7 and newer is asked to make."""
    found: list[dict[str, Any]] = []

    def initialize_ub(*, quantization_modes: list[str], **given: Any) -> None:
        found.append({**given, "quantization_modes": quantization_modes})

    _stand_in(monkeypatch, initialize_ub)
    for name in ("UB_SKIPMC", *user_buffers._WITHOUT_MULTICAST):
        monkeypatch.delenv(name, raising=False)
    return found


def _stand_in(monkeypatch: pytest.MonkeyPatch, initialize_ub: Any) -> None:
    kinds = SimpleNamespace(NONE="none", FP8="fp8")
    base = SimpleNamespace(initialize_ub=initialize_ub, UserBufferQuantizationMode=kinds)
    monkeypatch.setattr(user_buffers, "importlib", SimpleNamespace(import_module=lambda name: base))


def test_they_hold_a_micro_batch_of_hidden_states(made: list[dict[str, Any]]) -> None:
    user_buffers.start(case("tp2cp2+tp_comm_overlap"))
    wanted = {"shape": [512, 1024], "tp_size": 2, "dtype": torch.bfloat16, "bootstrap_backend": "nccl"}
    assert made == [{**wanted, "quantization_modes": ["none"]}]
    assert "UB_SKIPMC" not in os.environ


@pytest.mark.parametrize("layout", ["tp2", "tp2+tp_comm_overlap=false"])
def test_nothing_is_made_unless_it_is_asked_for(made: list[dict[str, Any]], layout: str) -> None:
    user_buffers.start(case(layout))
    user_buffers.start(case("tp2+tp_comm_overlap", "local"))
    assert made == []


@pytest.mark.parametrize(("name", "value"), user_buffers._WITHOUT_MULTICAST.items())
def test_where_multicast_is_off_they_do_without(
    made: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Any of the variables by which NCCL, torch and NVSHMEM are told."""
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("UB_SKIPMC", "")
    monkeypatch.delenv("UB_SKIPMC")
    user_buffers.start(case("tp2+tp_comm_overlap"))
    assert os.environ.pop("UB_SKIPMC") == "1"


def test_an_older_transformer_engine_is_told_of_fp8_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, Any]] = []

    def initialize_ub(*, use_fp8: bool, **given: Any) -> None:
        found.append({**given, "use_fp8": use_fp8})

    _stand_in(monkeypatch, initialize_ub)
    user_buffers.start(case("tp2+tp_comm_overlap"))
    assert [one["use_fp8"] for one in found] == [False]


def test_both_levels_of_context_parallelism_are_handed_on() -> None:
    sizes = "cp4+cp_comm_type=a2a+p2p+hierarchical_context_parallel_sizes=[2,2]"
    assert build._hierarchy(case(sizes)) == {"hierarchical_context_parallel_sizes": [2, 2]}
    assert build._hierarchy(case("cp2")) == {}
