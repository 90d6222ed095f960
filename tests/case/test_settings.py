"""Settings: fields of upstream's configuration by their own names, in cases, names and options."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import quick
from validation.case import declared, preflight
from validation.case.arrangement import cut, parse
from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.preset import TINY
from validation.case.settings import BASE, SHORT, effective, expanded, folded, label, parsed, read, split, words, written
from validation.case.training import OPTIONS, WORDS, Training
from validation.reference import store
from validation.run.options import parsed as run_options
from validation.run.reproduce import alone


def case(*texts: str, layouts: str = "single") -> Case:
    """The case of `--config TEXT ...`."""
    return run_options(["--layouts", layouts, *(word for text in texts for word in ("--config", text))]).cases[0]


def refused(made: Case) -> str:
    """Why the case cannot run."""
    with pytest.raises(UsageError) as raised:
        preflight.check(made, max_ranks=8, gpus=0, memory=None)
    return str(raised.value)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_behind_a_layout_is_a_short_form(word: str) -> None:
    """The settings that it stands for, given one by one, are the same case by the same name."""
    short = Training().with_word(word)
    long = Training().with_settings(expanded(short.options))
    if WORDS[word] in SHORT:  # others are of the data or of the reference, which have no field
        assert long == short != Training()
        assert long.words == (word,)


def test_every_option_that_has_settings_is_one_of_the_table() -> None:
    assert {option for option, _ in SHORT} <= set(OPTIONS)
    assert all(value in OPTIONS[option] for option, value in SHORT)


@pytest.mark.parametrize("name", BASE)
def test_what_plumbline_sets_anyway_is_no_setting(name: str) -> None:
    """It changes no name and no case."""
    assert Training().with_settings({name: BASE[name]}) == Training()


def test_a_part_of_a_short_form_is_what_is_left_of_it() -> None:
    """Seqaux has a coefficient of its own; with another one this is a setting beside it."""
    found = Training().with_settings({"model.moe_router_load_balancing_type": "seq_aux_loss", "model.moe_aux_loss_coeff": 0.02})
    assert (found.balancing, found.settings) == ("seq_aux_loss", (("model.moe_aux_loss_coeff", 0.02),))
    assert found.balance_coefficient == 0.02
    assert found.words == ("seqaux", "moe_aux_loss_coeff=0.02")
    off = Training().with_settings({"model.moe_router_load_balancing_type": "aux_loss"})
    assert (off.balancing, off.words) == ("none", ("moe_router_load_balancing_type=aux_loss",))


def test_one_section_stands_for_the_distributed_optimizer() -> None:
    for name in ("ddp.use_distributed_optimizer", "optimizer.use_distributed_optimizer"):
        assert case(f"{name}=true").training == Training(steps=2, optimizer="distributed")
    with pytest.raises(UsageError, match="contradict each other"):
        case("ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=false")


def test_a_case_with_settings_goes_through_json_and_its_own_name() -> None:
    """Ranks get it as text; a reproduction has it behind --layouts."""
    made = case("model.recompute_modules=[mlp,moe]", "model.recompute_granularity=selective", "ddp.bucket_size=1000")
    assert Case.from_json(made.to_json()) == made
    assert parse(made.arrangement, Training(steps=2))[1] == made.training
    assert run_options(["--layouts", made.arrangement]).cases[0].training == made.training
    assert "settings" not in json.loads(case().to_json())["training"]


def test_a_name_is_short_and_stable() -> None:
    few, many = (
        case("model.moe_z_loss_coeff=0.01"),
        case("ddp.bucket_size=1000", "ddp.overlap_grad_reduce=true", "optimizer.lr=0.1"),
    )
    assert few.name == "tiny-single+zloss+moe_z_loss_coeff=0.01-fp64-local-gloo"
    assert many.label == "single+3-settings-e70fab9d"
    assert case("optimizer.lr=0.1", "ddp.overlap_grad_reduce", "ddp.bucket_size=1000").name == many.name
    assert case("optimizer.lr=0.2", "ddp.overlap_grad_reduce", "ddp.bucket_size=1000").name != many.name


def test_a_value_has_the_type_of_its_field() -> None:
    assert case("model.moe_z_loss_coeff=1").training.settings == (("model.moe_z_loss_coeff", 1.0),)
    with pytest.raises(UsageError, match="it takes a whole number"):
        case("ddp.bucket_size=1.5")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model.moe_permute_fusio=true", "the nearest that this megatron-core has: model.moe_permute_fusion"),
        ("bucket_size=1", "give SECTION.FIELD=VALUE"),
        ("ddp.bucket_size=", "has no value; give ddp.bucket_size=VALUE"),
        ("ddp.bucket_size=[", "it is not YAML"),
        ("optimizer.moe_z_loss_coeff=1", "model.moe_z_loss_coeff is one"),
    ],
)
def test_what_is_no_setting_is_said(text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        case(text)
    assert says in str(raised.value)


def test_a_setting_that_is_given_twice_is_given_once() -> None:
    assert case("ddp.bucket_size=5", "ddp.bucket_size=5").training.settings == (("ddp.bucket_size", 5),)
    with pytest.raises(UsageError, match="as 5 and as 6; give it once"):
        case("ddp.bucket_size=5", "ddp.bucket_size=6")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model.num_layers=3", "is of the model's shape"),
        ("model.context_parallel_size=2", "--cp says it"),
        ("model.moe_permute_fusion=true", "needs Transformer Engine"),
        ("model.moe_expert_capacity_factor=1.5", "4 and more, which is experts / top-k, drop none"),
        ("optimizer.optimizer=lion", "optimizer=lion cannot be compared: the reference has no formula for it"),
        ("optimizer.optimizer=muon", "emerging-optimizers; PyPI has its version 0.3.0 alone, which needs Python 3.12"),
        ("optimizer.optimizer=dist_muon", "and steps float32 alone; adam and sgd can be compared"),
        ("optimizer.optimizer=adagrad", "no formula for lion, muon and others"),
        ("model.fp16=true", "the case's precision says it"),
        ("optimizer.lr=null", "says no number, and the reference computes with one; give one, or leave it out"),
        ("optimizer.lr=.inf", "is not finite, and what a step makes of it is no number; give a finite one"),
        ("model.mtp_loss_scaling_factor=null", "says no number"),
        ("model.moe_aux_loss_coeff=[0.1,0.2]", "is of several balancing losses"),
        ("optimizer.clip_grad=0.0", "Megatron-Core then computes no norm"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_its_reason(text: str, says: str) -> None:
    assert says in refused(case(text))


def test_no_value_of_any_field_is_a_traceback() -> None:
    """It is refused with a sentence, or the reference has a key."""
    for name, value in product(declared.here(), ("null", "-1", "[1,2]")):
        with suppress(UsageError):
            of = case(f"{name}={value}")
            preflight.check(of, max_ranks=8, gpus=0, memory=None)
            store.key(of)


def test_room_for_every_token_drops_none() -> None:
    preflight.check(case("model.moe_expert_capacity_factor=4"), max_ranks=8, gpus=0, memory=None)


def test_a_word_that_is_almost_a_field_is_told_its_name() -> None:
    with pytest.raises(UsageError, match=r"\+bias_dropout_fusio is unknown; the nearest that there is: \+bias_dropout_fusion"):
        run_options(["--layouts", "single+bias_dropout_fusio"])


def test_on_one_rank_the_settings_of_the_model_stay() -> None:
    """What differs there is the model; buckets and optimizers are of the layout."""
    made = case("ddp.overlap_grad_reduce", "model.moe_z_loss_coeff=0.01", layouts="tp2+distributed")
    assert alone(made).training == replace(made.training, optimizer="plain", settings=(("model.moe_z_loss_coeff", 0.01),))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@quick
@given(VALUES)
def test_a_written_value_is_read_as_itself(value: object) -> None:
    """Whatever it is: a reproduction must set the same."""
    again = read(written(value))  # type: ignore[arg-type]
    assert again == value
    assert type(again) is type(value)


def test_a_number_with_a_large_exponent_is_one_word_of_a_layout() -> None:
    """Python writes 1e+20, whose plus sign would begin another word where the case is written down."""
    assert case("optimizer.clip_grad=1e20").arrangement == "single+optimizer.clip_grad=1e20"
    assert cut("tp2+optimizer.lr=1e+20+mean+1-3") == ["tp2", "optimizer.lr=1e+20", "mean", "1-3"]


@quick
@given(st.text(max_size=60))
def test_no_text_is_a_traceback(text: str) -> None:
    try:
        name, value = parsed(text)
    except UsageError:
        return
    assert name.partition(".")[0] in ("model", "ddp", "optimizer", "scheduler")
    assert read(written(value)) == value or value != value


@pytest.mark.parametrize(
    ("text", "parts"), [("", []), ("a,b", ["a", "b"]), ("a+x=[1,2],b", ["a+x=[1,2]", "b"]), ("[[1,2],3],4", ["[[1,2],3]", "4"])]
)
def test_commas_in_brackets_part_nothing(text: str, parts: list[str]) -> None:
    assert split(text) == parts


def test_effective_has_what_plumbline_sets_below_what_is_set() -> None:
    options, left = folded({"loss": "mean"}, {"model.moe_z_loss_coeff": 0.5, "ddp.bucket_size": 7})
    found = effective(options, left, "model")
    assert (found["calculate_per_token_loss"], found["moe_z_loss_coeff"], found["attention_dropout"]) == (False, 0.5, 0.0)
    assert effective(options, left, "ddp")["bucket_size"] == 7


def test_words_and_label_agree_where_there_is_room() -> None:
    few = (("ddp.bucket_size", 7), ("model.bias_dropout_fusion", True))
    assert words(few) == label(few) == ("ddp.bucket_size=7", "bias_dropout_fusion")
    assert TINY.model.n_routed_experts == 16
