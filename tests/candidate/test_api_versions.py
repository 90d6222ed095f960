"""The differences of interface between releases of megatron-core, each seen on a stand-in for the other releases."""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import pytest
from megatron.core import parallel_state
from megatron.core.transformer.transformer_config import MLATransformerConfig

from validation.candidate import config, versions
from validation.case.case import DEFAULT_SEED, Case
from validation.case.layout import Layout
from validation.case.preset import TINY


@dataclass
class Old:
    """A configuration of 0.13."""

    num_layers: int = 1
    max_position_embeddings: int = 4096


def test_a_field_goes_by_the_name_that_the_release_has() -> None:
    wanted = {"num_layers": 4, "original_max_position_embeddings": 2048}
    assert versions.fields(Old, wanted) == {"num_layers": 4, "max_position_embeddings": 2048}


def test_a_field_that_may_be_missing_is_left_out() -> None:
    assert versions.fields(Old, {"embedding_init_method": print}) == {}


def test_any_other_field_that_is_missing_is_refused_and_not_dropped() -> None:
    """What is asked for and not there would be computed without."""
    with pytest.raises(TypeError, match="qk_layernorm"):
        Old(**versions.fields(Old, {"qk_layernorm": True}))


def test_the_configuration_of_this_release_has_what_is_asked_for() -> None:
    case = Case("tiny", TINY.model, Layout.parse("tp2"), "fp64", "local", "gloo", DEFAULT_SEED, 4, 2, 48)
    made = config.transformer_config(case)
    length = {"original_max_position_embeddings", "max_position_embeddings"} & {field.name for field in fields(made)}
    assert isinstance(made, MLATransformerConfig)
    assert [getattr(made, name) for name in length] == [TINY.model.original_max_position_embeddings]


@pytest.mark.parametrize("name", ["pg_collection", "model_comm_pgs"])
def test_a_core_attention_takes_its_group_by_either_name(name: str) -> None:
    assert versions.context_parallel_group({name: SimpleNamespace(cp="its group"), "layer_number": 1}) == "its group"


def test_a_core_attention_that_is_given_no_groups_takes_the_process_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_state, "get_context_parallel_group", lambda: "the process's")
    assert versions.context_parallel_group({}) == "the process's"


def test_the_virtual_stage_is_handed_to_what_takes_it() -> None:
    def young(vp_stage: int | None = None) -> None: ...
    def old() -> None: ...

    assert versions.of_stage(young, 1) == {"vp_stage": 1}
    assert versions.of_stage(old, 1) == {}


def test_where_nothing_takes_the_stage_it_is_state_while_a_chunk_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    monkeypatch.setattr(parallel_state, "is_pipeline_first_stage", lambda ignore_virtual=False: True)
    monkeypatch.setattr(parallel_state, "set_virtual_pipeline_model_parallel_rank", said.append)
    with versions.building(None):
        assert said == []
    with versions.building(1):
        assert said == [1]
    assert said == [1, 0]
