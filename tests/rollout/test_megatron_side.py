"""Megatron computes the tokens of a dump under a layout, and the report says which side is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import DynamicCache

from tests.checks.conftest import warm
from tests.checks.test_json import SCHEMA
from tests.rollout import engine
from tests.rollout.conftest import Bench
from validation.case.errors import UsageError
from validation.rollout.megatron import Wanted, case_of
from validation.rollout.own import read


def asked(file: Path, folder: Path, *words: str) -> dict[str, Any]:
    """The document of `logprobs` in a process whose ranks start warm."""
    done = warm(["logprobs", str(file), "--hf-model-path", str(folder), *words, "--format", "json"], file.parent)
    document: dict[str, Any] = json.loads(done.stdout)
    SCHEMA.validate(document)
    return document


def test_an_engine_that_is_wrong_is_told_from_megatron(bench: Bench, tmp_path: Path) -> None:
    """Megatron divides its logits by the dump's temperature, too, and agrees with HuggingFace to 1e-13 on each of two ranks."""

    def spoil(cache: DynamicCache, position: int) -> None:
        if position == 12:
            for layer in cache.layers:
                layer.keys[:, :, 2] = 0.0

    lines = engine.lines(bench.folder, bench.said, temperature=0.7, spoil=spoil)
    file = engine.write(tmp_path / "dump.jsonl", lines, mode="processed_logprobs", temperature=0.7)
    document = asked(file, bench.folder, "--layout", "tp2")
    assert document["exit_code"] == 1
    assert "The engine's decode tokens are wrong from position 13 of sequence 0 on" in document["says"][0]
    assert document["says"][1] == "Megatron agrees with HuggingFace: the error is in the engine."
    megatron = [check for check in document["logprobs"] if check["title"].startswith("Megatron Against")]
    assert [check["status"] for check in megatron] == ["pass"] * 3
    assert max(check["largest"] for check in megatron) < 1e-13


def test_megatron_with_other_weights_is_the_side_that_is_wrong(bench: Bench, tmp_path: Path) -> None:
    """A Megatron checkpoint that was not updated: the engine is right."""
    before = engine.moved(bench.folder, tmp_path / "before")
    warm(["convert", "--hf-model-path", str(before), "--save", str(tmp_path / "saved"), "--implementation", "local"], tmp_path)
    file = engine.write(tmp_path / "dump.jsonl", bench.right)
    document = asked(file, bench.folder, "--candidate-checkpoint", str(tmp_path / "saved"))
    assert document["says"][0].startswith("Megatron's log-probabilities are wrong from position 1 of sequence 0 on")
    assert document["says"][1] == "The engine agrees with HuggingFace: the error is in Megatron."


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("tp3", "tp3 does not divide the 4 attention heads"),
        ("tp2,pp2", "--layout tp2,pp2 names 2 layouts; give one"),
        ("tp2+documents", "--layout tp2+documents asks for other data or other steps"),
        ("tp2+static", "--layout tp2+static asks for other data or other steps"),
    ],
)
def test_what_cannot_run_is_said_before_the_start(bench: Bench, tmp_path: Path, layout: str, said: str) -> None:
    """A degree that does not divide, in the words of `run`; several layouts, and other data than the file's."""
    dump = read(engine.write(tmp_path / "dump.jsonl", bench.right))
    with pytest.raises(UsageError, match=re.escape(said)):
        case_of(Wanted(layout, None, "fp64"), bench.folder, dump)


@pytest.mark.parametrize(("layout", "size"), [("single", (3, 24)), ("tp2", (3, 24)), ("dp2", (4, 24)), ("cp2tp2", (3, 24))])
def test_sequences_are_filled_up_to_what_a_layout_divides(
    bench: Bench, tmp_path: Path, layout: str, size: tuple[int, int]
) -> None:
    """As many sequences as ranks share, and positions that each rank gets a part of."""
    dump = read(engine.write(tmp_path / "dump.jsonl", bench.right))
    case = case_of(Wanted(layout, None, "fp64"), bench.folder, dump)
    assert (case.batch_size, case.seq_length) == size
