"""The tokens of a file: JSON lines and Megatron's indexed data set, or one sentence."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import changed_bytes, quick
from validation.case.case import Case
from validation.case.data import END
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.tokens import of_file, stream, taken
from validation.case.training import Training

CASE = Case("tiny", TINY.model, Layout(), "fp64", "local", "gloo", 1234, 2, 1, 4)
DOCUMENTS = [[5, 6, 7], [8, END], [9, 10, 11, 12], [], [13, 14]]
NOTHING: Mapping[str, int] = {}
TEXT = "\n".join(["[5, 6, 7]", '{"input_ids": [8, 1]}', "", '{"tokens": [9, 10, 11, 12], "text": "x"}', "[]", "[13, 14]"])


def lines(folder: Path, text: str = TEXT) -> Path:
    (folder / "data.jsonl").write_text(text)
    return folder / "data.jsonl"


def indexed(folder: Path, kind: tuple[int, str] = (8, "H"), wrong: Mapping[str, int] = NOTHING) -> Path:
    """Megatron's data set of these documents, each of one sequence, but for the last two, which make one."""
    number, letter = kind
    documents = DOCUMENTS
    lengths = [len(document) for document in documents]
    places = [sum(lengths[:index]) * struct.calcsize(letter) for index in range(len(lengths))]
    ends = [*range(len(documents) - 1), len(documents)]
    head = struct.pack(
        "<9sQBQQ", b"MMIDIDX\x00\x00", wrong.get("version", 1), wrong.get("type", number), len(lengths), len(ends)
    )
    body = struct.pack(f"<{len(lengths)}i{len(lengths)}q{len(ends)}q", *lengths, *places, *ends)
    (folder / "data.idx").write_bytes((head + body)[: wrong.get("size", 1 << 20)])
    every = [token for document in documents for token in document]
    (folder / "data.bin").write_bytes(struct.pack(f"<{len(every)}{letter}", *every))
    return folder / "data.idx"


@pytest.mark.parametrize("kind", [(1, "B"), (4, "i"), (5, "q"), (8, "H")])
def test_both_kinds_of_file_have_the_same_documents(tmp_path: Path, kind: tuple[int, str]) -> None:
    """Each ends with the token that ends one, and no more are read than are needed."""
    found = taken(CASE, lines(tmp_path))
    assert found == ((5, 6, 7, END), (8, END), (9, 10, 11, 12, END))
    assert taken(CASE, indexed(tmp_path, kind=kind)) == found


def test_several_sequences_make_a_document(tmp_path: Path) -> None:
    assert taken(replace(CASE, seq_length=6), indexed(tmp_path))[-1] == (13, 14, END)


def test_sequences_follow_each_other_and_share_the_token_between_them(tmp_path: Path) -> None:
    """As megatron-core's GPTDataset cuts them; a further step takes the next ones."""
    case = replace(CASE, batch_size=1, seq_length=3, training=Training(steps=2))
    documents = taken(case, lines(tmp_path))
    assert stream(case, documents, 0) == [[5, 6, 7, END]]
    assert stream(case, documents, 1) == [[END, 8, END, 9]]


def test_with_padding_a_sequence_is_a_document(tmp_path: Path) -> None:
    case = replace(CASE, seq_length=2, training=Training(data_shape="padded"))
    assert taken(case, lines(tmp_path)) == ((5, 6, 7), (8, END))


def test_a_case_is_called_after_the_tokens_that_it_takes(tmp_path: Path) -> None:
    case = of_file(CASE, lines(tmp_path))
    assert case.name == f"tiny-single-fp64-local-gloo-data-{case.data_digest}"
    assert of_file(CASE, indexed(tmp_path)).data_digest == case.data_digest
    assert of_file(CASE, lines(tmp_path, TEXT.replace("7", "8"))).data_digest != case.data_digest
    assert of_file(CASE, lines(tmp_path, TEXT.replace("14", "15"))).data_digest == case.data_digest
    assert Case.from_json(case.to_json()) == case
    assert "data" not in CASE.to_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[5]\n[6]", "5 tokens too few for 2 sequences of 4; take fewer, or shorter ones"),
        ("[5, 128, 6]", "document 0 has token 128, and the vocabulary has 128; --set vocab_size=N makes it larger"),
        ("[-1]", "document 0 has token -1"),
        ("[5, true]", "line 1 is no list of token ids; give token ids or text as JSON lines"),
        ("[5]\n5", "line 2 is no list of token ids"),
        ('{"text": 5}', "line 1 has none of input_ids, tokens and text"),
        ('{"text": "five"}', "has text, which needs a tokenizer: --tokenizer DIR names its folder; or give token ids"),
        ("five", "line 1 is not JSON"),
    ],
)
def test_other_lines_are_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        taken(CASE, lines(tmp_path, text))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"version": 2}, "has version 2 and type 8; version 1 of whole numbers can be read"),
        ({"type": 6}, "has version 1 and type 6; version 1"),
        ({"size": 60}, "has 60 bytes of 134; copy it again with its .bin"),
        ({"size": 10}, "is no index of Megatron's data set"),
        ({"type": 1}, "describes 20 bytes and its .bin has 22; take two files of one data set"),
    ],
)
def test_another_index_is_refused_in_a_sentence(tmp_path: Path, wrong: dict[str, int], said: str) -> None:
    """One of another type would give other tokens of the vocabulary."""
    with pytest.raises(UsageError, match=rf"data.idx {said}"):
        taken(CASE, indexed(tmp_path, wrong=wrong))


@pytest.mark.parametrize("name", ["data.bin", "data"])
def test_a_data_set_is_named_by_its_index(tmp_path: Path, name: str) -> None:
    """The name of the tokens, and what Megatron-LM calls it by."""
    indexed(tmp_path)
    with pytest.raises(UsageError, match=r"named by its index; --data \S+/data.idx works"):
        taken(CASE, tmp_path / name)


def test_an_empty_document_adds_nothing(tmp_path: Path) -> None:
    """As in GPTDataset: no token stands for it. Nor does a byte order mark, which files of Windows begin with."""
    assert taken(replace(CASE, batch_size=1), lines(tmp_path, "\ufeff[]\n[5, 6]\n[]\n[7, 8]")) == ((5, 6, END), (7, 8, END))


def test_what_is_not_there_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(UsageError, match="give token ids or text as JSON lines"):
            taken(CASE, path)
    indexed(tmp_path)
    (tmp_path / "data.bin").unlink()
    with pytest.raises(UsageError, match=r"data.bin: cannot be read \(No such file"):
        taken(CASE, tmp_path / "data.idx")


@quick
@given(data=changed_bytes(TEXT.encode()))
def test_lines_of_other_bytes(data: bytes, tmp_path: Path) -> None:
    """Documents, or one sentence."""
    (tmp_path / "data.jsonl").write_bytes(data)
    _holds(tmp_path / "data.jsonl")


@quick
@given(data=st.data())
def test_an_index_of_other_bytes(data: st.DataObject, tmp_path: Path) -> None:
    path = indexed(tmp_path)
    path.write_bytes(data.draw(changed_bytes(path.read_bytes())))
    _holds(path)


def _holds(path: Path) -> None:
    said = ""
    try:
        found = taken(CASE, path)
    except UsageError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 5000
    if said:
        return
    assert sum(map(len, found)) > CASE.batch_size * CASE.seq_length
    assert all(0 <= token < CASE.model.vocab_size for document in found for token in document)
