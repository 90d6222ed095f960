"""The text of --data as token ids, by transformers' tokenizer in a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from validation.case.case import Case
from validation.case.data import END
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.tokens import of_file, taken
from validation.case.training import Training
from validation.reference.batch import evaluated, make_batch

CASE = Case("tiny", TINY.model, Layout(), "fp64", "local", "gloo", 1234, 2, 1, 4)


def lines(folder: Path, text: str) -> Path:
    (folder / "data.jsonl").write_text(text)
    return folder / "data.jsonl"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder whose tokenizer knows four words and begins each text with token 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("tokenizer")
    words = {"<s>": 0, "</s>": 1, "a": 5, "b": 6, "c": 7, "d": 8}
    made = Tokenizer(models.WordLevel(words, unk_token="d"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}')
    return str(folder)


@pytest.mark.parametrize("model", [False, True])
def test_text_becomes_what_the_tokenizer_makes_of_it(model: bool, tokenizer: str, tmp_path: Path) -> None:
    """Of JSON lines and of a text file, with the tokenizer of --tokenizer or the checkpoint's; token ids stay what they are."""
    case = replace(CASE, hf_model_path=tokenizer) if model else replace(CASE, tokenizer=tokenizer)
    (tmp_path / "data.txt").write_text("a b\n\nc\nd a b\n")
    found = ((0, 5, 6, END), (0, 7, END), (0, 8, 5, 6, END))
    assert taken(case, tmp_path / "data.txt") == found
    mixed = '{"text": "a b"}\n{"text": "x", "tokens": [0, 7]}\n{"text": "d a b"}\n'
    assert taken(case, lines(tmp_path, mixed)) == found


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    """What is missing, and what would work."""
    path = lines(tmp_path, '{"text": "a"}\n')
    with pytest.raises(UsageError, match=r"no tokenizer that transformers can load .*; name another folder"):
        taken(replace(CASE, tokenizer=str(tmp_path)), path)
    with pytest.raises(UsageError, match="there is no such folder"):
        taken(replace(CASE, tokenizer=str(tmp_path / "none")), path)
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    with pytest.raises(UsageError, match=r"bad.txt, line 1 is no UTF-8"):
        taken(CASE, tmp_path / "bad.txt")


@pytest.mark.parametrize("shape", ["full", "packed", "padded"])
def test_a_file_of_as_many_tokens_as_the_steps_take_is_enough(shape: str, tmp_path: Path) -> None:
    """What is evaluated between them is the first batch again."""
    case = replace(CASE, batch_size=1, seq_length=8, training=Training(steps=2, data_shape=shape))
    text = "[5, 6, 7, 8, 9, 10, 11, 12]\n[13, 14, 15, 16, 17, 18, 19]\n"
    case = of_file(case, lines(tmp_path, text))
    steps = [make_batch(case, step).tokens.tolist() for step in range(2)]
    assert steps[0] != steps[1]
    assert evaluated(case).tokens.tolist() == steps[0]


def test_random_tokens_that_are_evaluated_are_of_no_step() -> None:
    case = replace(CASE, seq_length=24, training=Training(steps=2))
    steps = [make_batch(case, step).tokens.tolist() for step in range(2)]
    assert evaluated(case).tokens.tolist() not in steps
