"""What a plugin changes in a configuration counts as if the configuration had been made with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests import core  # noqa: F401 - before megatron-core
from validation.candidate.configured import Configured, Overwritten, configured
from validation.case.case import Case
from validation.case.errors import UsageError
from validation.run.options import parsed

LAYOUT = "Et|t|t|tL"


def case(layout: str = "single") -> Case:
    return parsed(["--layouts", layout]).cases[0]


def setting(**changed: Any) -> Callable[[Case, Any], None]:
    def configure(case: Case, config: Any) -> None:
        for name, value in changed.items():
            setattr(config, name, value)

    return configure


def test_a_pipeline_layout_as_text_is_read() -> None:
    """As megatron-core's own `__post_init__` reads it, in the object that the plugin keeps."""
    kept: list[Any] = []

    def configure(case: Case, config: Any) -> None:
        config.pipeline_model_parallel_layout = LAYOUT
        kept.append(config)

    made = configured(case("pp2vpp2"), configure)
    assert made.config is kept[0]
    assert not isinstance(made.config.pipeline_model_parallel_layout, str)
    assert made.config.pipeline_model_parallel_layout.layout[1][1][0].name == "decoder"
    assert made.refused == ""


def test_what_follows_from_a_change_follows() -> None:
    """Selective recomputation has modules of its own if none are named."""
    made = configured(case(), setting(recompute_granularity="selective"))
    assert made.config.recompute_modules == ["core_attn"]


def test_what_is_changed_is_noted() -> None:
    """A field that gets the value which it has is none."""
    seen = Overwritten()
    configured(case(), seen.by(setting(bias_dropout_fusion=True, hidden_dropout=0.0)))
    assert seen.values == {"model.bias_dropout_fusion": True}


def test_a_list_that_is_changed_in_place_is_a_change() -> None:
    """And what no field has stays beside the fields."""

    def configure(case: Case, config: Any) -> None:
        config.moe_layer_freq[0] = 1
        config.my_own = 3

    made = configured(case(), configure)
    assert made.config.moe_layer_freq[0] == 1
    assert made.config.my_own == 3


def test_without_a_change_nothing_is_made_again() -> None:
    kept: list[Any] = []
    made = configured(case(), lambda case, config: kept.append(config.init_method))
    assert made == Configured(made.config)
    assert made.config.init_method is kept[0]


def test_a_plugin_may_try_what_megatron_core_refuses() -> None:
    """The values stay as they are; if no model can be built from them, the refusal is the reason."""
    made = configured(case(), setting(moe_router_score_function="softmax"))
    assert made.config.moe_router_score_function == "softmax"
    said = "the plugin sets model.moe_router_score_function='softmax', and Megatron-Core refuses that: "
    assert made.refused.startswith(said)
    with pytest.raises(UsageError, match="Megatron-Core refuses that"), made.building():
        raise AttributeError
    sound = configured(case(), setting())
    with pytest.raises(AttributeError), sound.building():
        raise AttributeError


@pytest.mark.parametrize(
    ("changed", "layout", "said"),
    [
        (
            {"fp32_residual_connection": True},
            "single",
            "=True, which needs Transformer Engine; --implementation te on GPUs has it",
        ),
        ({"fused_residual_rmsnorm": True}, "single", "model.fused_residual_rmsnorm=True, "),
        ({"apply_rope_fusion": True}, "single", "which needs a GPU; --transport nccl runs on GPUs"),
        ({"moe_router_topkk": 3}, "single", "no such field; did you mean moe_router_topk?"),
        ({"moe_deepep_num_sms": 3, "batch_invariant_backend": "x"}, "single", "this megatron-core does not have the field"),
        (
            {"pipeline_model_parallel_layout": "Ett|tmL"},
            "pp2+mtp",
            "--config model.pipeline_model_parallel_layout='Ett|tmL' sets it",
        ),
    ],
)
def test_what_nothing_would_read_is_refused(changed: dict[str, Any], layout: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        configured(case(layout), setting(**changed))
    assert said in str(raised.value)


def test_a_field_that_is_turned_off_needs_nothing() -> None:
    assert configured(case(), setting(fp32_residual_connection=False)).refused == ""
