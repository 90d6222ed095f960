"""From a case to megatron-core's configuration."""

from __future__ import annotations

import weakref
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from megatron.core.transformer import transformer_config as core

from validation.candidate import platform, versions
from validation.candidate.config import transformer_config
from validation.candidate.refusal import refusal
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import MINI, TINY
from validation.case.training import Training


@pytest.mark.parametrize(
    ("fp8", "wanted"), [("none", (None, "delayed")), ("delayed", ("hybrid", "delayed")), ("blockwise", ("e4m3", "blockwise"))]
)
def test_fp8_is_megatron_cores_own(monkeypatch: pytest.MonkeyPatch, fp8: str, wanted: Any) -> None:
    """Weights stay in bf16: they are compared exactly."""
    monkeypatch.setattr(core, "is_te_min_version", lambda *given, **more: True)
    training = Training(fp8=fp8)
    case = Case("mini", MINI.model, Layout.parse("tp2"), "bf16", "te", "staged", 1, 2, 1, 512, training=training)
    made = transformer_config(case)
    assert (made.fp8, made.fp8_recipe) == wanted
    assert not made.fp8_param
    assert not made.fp8_dot_product_attention


def test_requests_are_kept_until_they_are_waited_for() -> None:
    """Gloo forgets a message whose request is dropped before its receiver asks for it."""

    class Request:
        done = False

        def is_completed(self) -> bool:
            return self.done

    made: list[Any] = []

    def start(**given: Any) -> dict[str, Request]:
        request = Request()
        made.append(weakref.ref(request))
        return {"send_next": request}

    module = ModuleType("p2p_communication")
    vars(module)["_p2p_ops"] = start
    platform._kept_requests({"pipeline_parallel.p2p_communication": module})
    for _ in range(2):
        vars(module)["_p2p_ops"](tensor_send_next=None)
    assert all(request() is not None for request in made)
    made[0]().done = True
    vars(module)["_p2p_ops"](tensor_send_next=None)
    assert [request() is not None for request in made] == [False, True, True]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model.moe_token_dispatcher_type": "allgather", "model.moe_shared_expert_overlap": True}, "only works with alltoall"),
        ({"model.recompute_granularity": "full"}, "so recompute_method must be"),
        ({"scheduler.override_opt_param_scheduler": True}, "both override and use-checkpoint are set"),
        ({"model.recompute_granularity": "full", "model.recompute_method": "block", "model.recompute_num_layers": 1}, None),
        ({}, None),
    ],
)
def test_what_megatron_core_refuses_is_said_in_its_words_on_one_line(given: dict[str, Any], said: str | None) -> None:
    """Before any rank starts."""
    training = Training(steps=1).with_settings(given)
    case = Case("tiny", TINY.model, Layout.parse("single"), "fp64", "local", "gloo", 1, 4, 2, 48, training=training)
    found = refusal(case)
    assert (found is None) == (said is None)
    assert found is None or (found.startswith(f"Megatron-Core refuses {case.label}: ") and str(said) in found)
    assert found is None or not ("\n" in found or found.endswith("."))


@pytest.mark.parametrize(("shape", "takes"), [("packed", False), ("packed-padded", False), ("documents", True)])
def test_an_mtp_layer_of_before_0_16_takes_no_packed_documents(
    monkeypatch: pytest.MonkeyPatch, shape: str, takes: bool
) -> None:
    """Its assertion is not left to the ranks."""
    model, training = replace(TINY.model, num_nextn_predict_layers=1), Training(data_shape=shape)
    case = Case("tiny", model, Layout.parse("single"), "fp64", "local", "gloo", 1, 4, 1, 48, training=training)
    assert refusal(case) is None
    monkeypatch.setattr(versions, "PACKED_MTP", False)
    assert refusal(case) == (
        None
        if takes
        else f"{case.arrangement}: before 0.16 Megatron-Core's MTP layer takes no packed documents; +documents works"
    )
