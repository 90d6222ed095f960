"""Whatever text stands for a value: one that its field takes, or one sentence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import quick
from validation.case.declared import checked, find, here, value
from validation.case.errors import UsageError

FIELDS = (
    "model.moe_permute_fusion",
    "model.hidden_size",
    "optimizer.lr",
    "model.moe_layer_freq",
    "model.recompute_modules",
    "model.window_size",
    "model.attention_backend",
    "model.pipeline_model_parallel_layout",
    "model.activation_func",
)
TEXT = st.text(max_size=40) | st.text(alphabet="[](){}&*!|>'\"%@:,#-+.eE0123456789 truefalsnv~\n\t", max_size=60)


def refused(call: Callable[[], object]) -> str:
    """The sentence with which this is refused; empty if it is not."""
    try:
        call()
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", FIELDS)
@quick
@given(text=TEXT)
def test_any_text_is_a_value_or_a_sentence(name: str, text: str) -> None:
    field = here()[name]
    if said := refused(lambda: value(field, text)):
        assert said.startswith(name)
        assert said.isprintable()
    else:
        found = value(field, text)
        assert checked(field, found) == found, "what a field takes it takes again"


@quick
@given(name=st.text(max_size=40) | st.sampled_from(sorted(here())).map(lambda name: name[:-1]))
def test_any_name_is_a_field_or_a_sentence(name: str) -> None:
    said = refused(lambda: find(here(), name))
    assert (name in here()) == (not said)
    assert not said or (said.startswith("there is no setting") and said.isprintable())
