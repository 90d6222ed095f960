"""The table of fields knows every field of every supported release, and what it says of them can be looked up."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from ci.releases import RELEASES
from docs.made.releases import NAMES, recorded, write
from validation import checkout
from validation.case.annotation import Value
from validation.case.case import PRECISIONS, TE
from validation.case.declared import SECTIONS, checked, here
from validation.case.errors import UsageError
from validation.case.fields import KINDS, NEEDS, Entry, counts, entries, entry
from validation.case.layout import Layout
from validation.case.model import MEGATRON_WORDS, Model
from validation.case.settings import BASE, SHORT
from validation.run.command_line import add_grouped

ROOT = Path(__file__).parents[2]
RECORD = recorded()
ALL = list(entries().values())
_VERSIONS = re.compile(r"\((?:(since|until) )?(\d+\.\d+|main|dev)(?:, (\d+\.\d+|main|dev))?\)")
"""How a reason says which releases have the field: `(since 0.18)`, `(main)`, `(0.19, main)`."""
SWITCHED_OFF = {"model.perform_initialization", "model.fp8_recipe"}
"""Refused in any other value; and what a case without fp8 says of its recipe."""
OLDER = {
    *(("ddp.use_megatron_fsdp", release) for release in ("0.12.3", "0.13.1")),
    *(("model.cuda_graph_impl", release) for release in ("0.12.3", "0.13.1", "0.14.0")),
    ("model.overlap_moe_expert_parallel_comm", "0.13.1"),
}
"""What took the place of use_custom_fsdp and of enable_cuda_graph, and 0.13, in which delay_wgrad_compute stands alone."""
YOUNGER = ["model.cross_entropy_fusion_impl=linear: it takes native or te"]
"""Values that the installed release does not have yet."""


def test_every_field_that_is_installed_is_in_the_table() -> None:
    assert [name for name in here() if name not in entries()] == []


def test_every_release_is_recorded() -> None:
    """One that is added to RELEASES needs `python -m docs.made.releases NAME=FOLDER`."""
    assert {release.megatron_core for release in RELEASES} | {"main", "dev"} == set(RECORD)
    assert list(RECORD) == list(NAMES)


def test_the_record_of_the_installed_one_is_true() -> None:
    core = checkout.core()
    assert core is not None
    assert RECORD[str(checkout.version(core))] == tuple(sorted(here()))


def test_every_field_of_every_release_is_in_the_table() -> None:
    assert {name for names in RECORD.values() for name in names} - set(entries()) == set()
    assert all(len(names) > 200 for names in RECORD.values())


def test_no_line_is_of_no_release() -> None:
    known = {name for names in RECORD.values() for name in names}
    assert [name for name in entries() if name not in known] == []


def faults(one: Entry) -> Iterator[str]:
    """What is wrong with a line."""
    rules = {
        "section": one.section in SECTIONS,
        "kind": one.kind in KINDS,
        "words": 1 < len(one.why.split()) < 31 and one.why.isascii() and not one.why.endswith("."),
        "a need": bool(one.needs) == (one.kind == "machine") or one.kind in ("meaning", "idle"),
        "a known need": {one.needs, *dict(one.needs_of).values()} <= {"", *NEEDS},
        "needs by value": not one.needs_of or one.kind == "neutral",
        "lane": one.lane in ("", *PRECISIONS),
        "values": not (one.formula or one.only) or one.kind == "meaning" or (one.kind == "shape" and not one.formula),
        "a known implementation": one.unread_by in ("", *TE),
        "formula": not one.formula or (ROOT / "validation" / "reference" / f"{one.formula}.py").is_file(),
        "no formula is said": bool(one.formula or one.only) or one.kind != "meaning" or "the reference has" in one.why,
        "what would work": one.kind != "refused" or bool(re.search("needs|plugin|says|works|read", one.why)),
    }
    return (rule for rule, holds in rules.items() if not holds)


def test_every_line_says_what_it_must() -> None:
    assert {one.name: list(faults(one)) for one in ALL if list(faults(one))} == {}


def test_a_line_that_does_not_is_seen() -> None:
    assert set(faults(Entry("modell.x", "fast", "Fast.", formula="none", needs="luck", lane="fp8", only=(1,)))) >= {
        *("section", "kind", "words", "a need", "a known need", "lane", "values", "formula"),
    }
    assert list(faults(Entry("model.x", "refused", "some other thing"))) == ["what would work"]
    assert list(faults(Entry("model.x", "meaning", "some other thing"))) == ["no formula is said"]
    assert list(faults(Entry("model.x", "machine", "some other thing"))) == ["a need"]


def test_an_option_is_one_that_there_is() -> None:
    """`--set NAME` of a number of the model, an option of `run`, or the words of a layout."""
    parser = argparse.ArgumentParser(add_help=False)
    add_grouped(parser)
    numbers = {number.name for number in fields(Model)} | set(MEGATRON_WORDS)
    wrong = []
    for option in {one.option for one in ALL if one.option}:
        word, _, number = option.partition(" ")
        known = number in numbers if word == "--set" else word in parser._option_string_actions
        if not (known or (not word.startswith("--") and Layout.parse(word.partition("+")[0]))):
            wrong.append(option)
    assert wrong == []


def releases(name: str) -> list[str]:
    """The releases that have a field, as 0.19, and main and dev."""
    return [".".join(release.split(".")[:2]) for release, names in RECORD.items() if name in names]


def is_true(one: Entry, said: re.Match[str]) -> bool:
    """Whether what a reason says of releases is so."""
    having = releases(one.name)
    if said[1] == "since":
        return (having[0], having[-1]) == (said[2], "dev") and len(having) < len(RECORD)
    if said[1] == "until":
        return (having[0], having[-1]) == ("0.12", said[2])
    return {said[2], said[3] or said[2]} == set(having)


def test_a_reason_that_names_releases_names_the_right_ones() -> None:
    said = [(one, found) for one in ALL if (found := _VERSIONS.search(one.why))]
    assert len(said) > 100
    assert [(one.name, found[0], releases(one.name)) for one, found in said if not is_true(one, found)] == []


def test_values_of_the_table_are_values_of_the_field() -> None:
    wrong = []
    for one in ALL:
        for value in (*one.only, *dict(one.needs_of)) if one.name in here() and one.name != "model.activation_func" else ():
            try:
                assert checked(here()[one.name], value) == value
            except UsageError as refused:
                wrong.append(str(refused))
    assert wrong == YOUNGER


@pytest.mark.parametrize(
    ("name", "value", "is_computed"),
    [
        ("model.moe_router_score_function", "sigmoid", True),
        ("model.moe_router_score_function", "softmax", False),
        ("model.moe_aux_loss_coeff", 0.001, True),
        ("model.hidden_dropout", 0.0, True),
        ("model.hidden_dropout", 0.1, False),
        ("model.moe_expert_capacity_factor", None, True),
        ("model.moe_expert_capacity_factor", 1.0, False),
        ("model.add_qkv_bias", False, True),
        ("model.add_qkv_bias", 0, False),
        ("model.qk_clip_alpha", 0.5, False),
        ("ddp.overlap_grad_reduce", True, True),
        ("ddp.use_megatron_fsdp", True, False),
        ("scheduler.lr_decay_style", "cosine", True),
        ("scheduler.lr_decay_style", "step", False),
    ],
)
def test_the_table_knows_for_which_values_the_reference_stands(name: str, value: Value, is_computed: bool) -> None:
    assert entry(name).computed(value) is is_computed


def test_a_need_may_be_of_one_value() -> None:
    assert entry("model.moe_token_dispatcher_type").need("flex") == "deepep"
    assert entry("model.moe_token_dispatcher_type").need("alltoall") == ""
    assert entry("model.moe_permute_fusion").need(True) == "te"


def test_a_field_is_unread_while_the_one_it_belongs_to_is_at_rest() -> None:
    assert entry("model.qk_clip_alpha").unread({"model.qk_clip": False})
    assert not entry("model.qk_clip_alpha").unread({"model.qk_clip": True})
    assert entry("optimizer.fp8_recipe").unread({"model.fp8": None})
    assert entry("optimizer.muon_momentum").unread({"optimizer.optimizer": "adam"})
    assert not entry("optimizer.muon_momentum").unread({"optimizer.optimizer": "muon"})
    assert entry("model.cp_comm_type").unread({"model.context_parallel_size": 1})
    assert not entry("model.cp_comm_type").unread({"model.context_parallel_size": True})
    assert not entry("model.qk_clip_alpha").unread({})
    assert not entry("model.qk_clip").unread({})


def test_a_field_belongs_to_one_that_the_same_releases_have() -> None:
    """Some are older than the one that took the place of what they belonged to."""
    belonging = [one for one in ALL if one.with_field]
    older = {
        (one.with_field, release)
        for one in belonging
        for release, names in RECORD.items()
        if one.name in names and one.with_field not in names
    }
    assert len(belonging) > 100
    assert older == OLDER


def test_values_at_which_a_field_is_unread_are_values_of_the_other() -> None:
    for one in ALL:
        for value in one.unread_at if one.with_field in here() and len(one.unread_at) != 3 else ():
            assert checked(here()[one.with_field], value) == value


def test_a_field_that_is_not_in_the_table_is_refused_in_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"does not know what 'model.tomorrow' does: its table of fields, fields.yaml"):
        entry("model.tomorrow")


def test_counts_are_of_every_kind() -> None:
    assert list(counts()) == list(KINDS)
    assert sum(counts().values()) == len(ALL)
    assert counts(["model.moe_permute_fusion", "optimizer.lr"]) == {**dict.fromkeys(KINDS, 0), "machine": 1, "meaning": 1}


def test_the_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write({"0.16.1": ["model.a", "model.b"], "0.12.3": ["model.a"], "dev": ["model.c"]}, path)
    assert recorded(path) == {"0.12.3": ("model.a",), "0.16.1": ("model.a", "model.b"), "dev": ("model.c",)}


def test_the_reference_stands_for_what_plumbline_sets_whatever_the_case() -> None:
    """And for what the options of a step stand for."""
    said = [*BASE.items(), *((name, value) for short in SHORT.values() for name, value in short.items())]
    wrong = [(name, value) for name, value in said if not entry(name).computed(value) and name not in SWITCHED_OFF]
    assert wrong == []
    assert {entry(name).kind for name, _ in said} <= {"neutral", "meaning", "machine", "idle", "refused"}


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("model.moe_z_loss_coeff", True),  # changes the numbers
        ("optimizer.weight_decay", True),
        ("model.bias_activation_fusion", True),
        ("model.moe_shared_expert_overlap", True),
        ("model.overlap_p2p_comm", False),
        ("model.variable_seq_lengths", False),
        ("model.moe_token_dispatcher_type", False),
        ("model.moe_flex_dispatcher_backend", False),  # read with the dispatcher alone
        ("model.delay_wgrad_compute", False),
        ("model.tp_comm_bulk_wgrad", False),
        ("model.hierarchical_context_parallel_sizes", False),
        ("model.pipeline_model_parallel_layout", False),
        ("ddp.bucket_size", False),
        ("optimizer.overlap_param_gather", False),
    ],
)
def test_the_table_says_what_a_rank_alone_has(name: str, alone: bool) -> None:
    """What ranks send each other is nothing for one."""
    assert entry(name).of_one_rank is alone
