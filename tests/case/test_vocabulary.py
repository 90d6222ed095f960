"""The vocabulary padded to a multiple: how many rows, how a case says it, and what its batch holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from validation.case.arrangement import parse, written
from validation.case.case import Case
from validation.case.data import wanted_tokens
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.case.training import Training
from validation.case.vocabulary import padded, rows

ODD = replace(TINY.model, vocab_size=129)


@pytest.mark.parametrize(
    ("vocabulary", "multiple", "tp", "wanted"),
    [(129, 128, 1, 256), (129, 1, 2, 130), (128, 64, 2, 128), (129280, 128, 2, 129280), (129280, 128, 4, 129536)],
)
def test_rows_are_those_of_megatron_lm(vocabulary: int, multiple: int, tp: int, wanted: int) -> None:
    """Its calculate_padded_vocab_size: up to a multiple of both together."""
    assert rows(vocabulary, multiple, tp) == wanted


def case(text: str) -> Case:
    layout, training, _ = parse(text, Training())
    model = padded(ODD, layout, training)
    return Case("tiny", model, layout, "fp64", "local", "gloo", 1234, 4, 2, 48, training=training)


def test_a_word_pads_the_vocabulary_and_comes_back_from_text() -> None:
    """Without one, a case is written as it always was."""
    asked = case("tp2+vocab16")
    assert (asked.model.vocab_size, asked.model.vocabulary_rows) == (129, 160)
    assert parameters(asked.model)["lm_head.weight"].shape == (160, 64)
    assert written(asked.layout, asked.training, 0) == asked.label == "tp2+vocab16"
    assert Case.from_json(asked.to_json()) == asked
    assert "vocab_multiple" not in case("tp2").to_json()
    assert "padded_vocab_size" not in case("tp2").to_json()


def test_two_numbers_of_rows_are_refused() -> None:
    """A number that is given must be the word's."""
    given = replace(ODD, padded_vocab_size=192)
    with pytest.raises(UsageError, match=r"\+vocab16 with tp2 pads the vocabulary to 160 rows and .*=192 to 192; give one"):
        padded(given, Layout(tp=2), Training(vocab_multiple=16))
    assert padded(given, Layout(tp=2), Training(vocab_multiple=32)) == given
    assert padded(given, Layout(tp=2), Training()) == given


def test_a_batch_wants_the_last_token_and_none_of_padding() -> None:
    """Ends of shards count in rows: the second of two begins at 80."""
    wanted = wanted_tokens(case("tp2+vocab16"))
    assert {0, 1, 79, 80, 128} <= set(wanted)
    assert max(wanted) == 128


@pytest.mark.parametrize("word", ["vocab0", "vocab-1", "vocab", "vocab1.5", "vocab1000000000000"])
def test_a_multiple_that_nothing_pads_to_is_refused_in_a_sentence(word: str) -> None:
    with pytest.raises(UsageError, match=r"give a whole number from 1 to 999999 behind vocab, such as \+vocab128"):
        case(f"tp2+{word}")
