"""What cases of all pairs are made of: every field that a CPU can try is a factor, or it is said why not."""

from __future__ import annotations

import pytest

from validation.case import declared, fields
from validation.case.fields import Entry
from validation.case.settings import SHORT, of_word
from validation.case.training import WORDS
from validation.pairwise.cases import refusal
from validation.recipe.factors import factors, left_out
from validation.recipe.pairs import Value
from validation.run import known


def names(word: str) -> set[str]:
    """The fields that a word behind a layout sets."""
    if setting := of_word(word):
        return {setting[0]}
    option = WORDS.get(word)
    return set(SHORT.get(option, {})) if option else set()


def can_be_tried(entry: Entry) -> bool:
    """In fp64 on a CPU, with more than one value that the reference stands for."""
    free = entry.kind == "neutral" or (entry.kind == "meaning" and bool(entry.formula) and len(entry.only) != 1)
    return free and not entry.needs and not entry.lane


def test_every_field_that_a_cpu_can_try_is_a_factor_or_left_out_with_a_reason() -> None:
    """A field that upstream adds must be one or the other; and none is both."""
    table = fields.entries()
    tried = {name for factor in factors() for value in factor.values for word in value.words for name in names(word)}
    wanted = {name for name in declared.here() if name in table and can_be_tried(table[name])}
    assert sorted(wanted - tried - left_out().keys()) == []
    assert sorted(tried & left_out().keys()) == []
    assert sorted(left_out().keys() - table.keys()) == []
    assert all(reason.strip() for reason in left_out().values())


def test_each_value_can_be_tried_alone() -> None:
    """Plumbline's own rules accept it in a case of its own; a word that is misspelt would be refused here."""
    refused = {str(value): refusal((value,), upstream=False) for factor in factors() for value in factor.values[1:]}
    assert {name: why for name, why in refused.items() if why} == {}


@pytest.mark.parametrize(("version", "refused"), [("0.16.1", True), ("0.17.1", True), ("0.18.2", False)])
def test_values_are_in_no_case_together_if_a_known_bug_makes_any_number_of_them(
    version: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself is; and with a release that has mended the bug they are."""
    monkeypatch.setattr(known, "version_of", lambda package: version)
    both = (Value((("pp", 2), ("vpp", 2))), Value(words=("deallocate_pipeline_outputs",)))
    said = [refusal(row, upstream=False) or "" for row in (both[:1], both[1:], both)]
    assert [one.startswith("a known bug: outputs-freed-while-sent: ") for one in said] == [False, False, refused]


def test_no_value_stands_twice() -> None:
    """A value names its factor: conflicts are made of values alone."""
    values = [value for factor in factors() for value in factor.values[1:]]
    assert len(values) == len(set(values))
    assert len({factor.name for factor in factors()}) == len(factors())
