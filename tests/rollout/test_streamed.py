"""The HuggingFace model layer by layer says what it says as a whole, with one layer held."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rollout import engine
from tests.rollout.conftest import Bench, compared
from validation.case.errors import UsageError
from validation.reference.floor import Variant
from validation.reference.stream import Side
from validation.rollout import streamed
from validation.rollout.source import Source
from validation.rollout.truth import Routers, every, replayed


@pytest.mark.parametrize(
    ("precision", "variant"),
    [("fp64", None), ("bf16", Variant(attention="eager", experts="grouped_mm", moved=1))],
)
def test_a_layer_at_a_time_computes_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, precision: str, variant: Variant | None
) -> None:
    """In every way that the floor needs, with sequences in several groups, and with experts that are given."""
    monkeypatch.setattr(streamed, "_TOGETHER", 30 * 64 * 8)
    model = engine.opened(bench.folder)
    said = [replace(one, routed=tuple(tuple(map(tuple, row)) for row in engine.routed(model, one))) for one in bench.said]
    found: list[list[torch.Tensor]] = []
    scores: list[list[dict[int, torch.Tensor]]] = []
    for stream in (False, True):
        hf, seen = Source(bench.folder, stream=stream).open(precision, "bf16"), [Routers() for _ in said]
        how: dict[str, Any] = {"variant": variant, "routings": [replayed(one, hf.model) for one in said], "seen": seen}
        found.append(every(hf, said, 0.7, **how))
        scores.append([one.scores for one in seen])
    limit = {"fp64": 1e-13, "bf16": 0.02}[precision]
    for whole, by_layer in zip(*found, strict=True):
        assert by_layer[0].isnan()
        torch.testing.assert_close(by_layer[1:], whole[1:], rtol=0, atol=limit)
    assert [one.keys() for one in scores[1]] == [one.keys() for one in scores[0]]
    for whole_scores, by_layer_scores in zip(*scores, strict=True):
        for layer, tensor in whole_scores.items():
            torch.testing.assert_close(by_layer_scores[layer], tensor, rtol=0, atol=limit)


def test_a_wrong_dump_is_told_the_same(bench: Bench, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Verdicts, places and the cause, which looks at the whole vocabulary."""
    file = engine.write(tmp_path / "dump.jsonl", engine.lines(bench.folder, bench.said, temperature=0.7))
    whole, by_layer = (compared(capsys, file, bench.folder, *words) for words in ((), ("--stream",)))
    assert by_layer.code == whole.code == 1
    assert by_layer.sentence == whole.sentence
    assert "a temperature of 0.7 is in them" in by_layer.sentence
    assert [one["status"] for one in by_layer.document["logprobs"]] == ["fail"] * 3


def test_embedding_and_head_of_one_matrix_are_refused(tmp_path: Path) -> None:
    folder = engine.write_folder(tmp_path / "tied", replace(engine.MODEL, tie_word_embeddings=True))
    with pytest.raises(UsageError, match="one matrix for embedding and head, which lie in two layers; leave out --stream"):
        Source(folder, stream=True).open("fp64", "fp64")


def test_no_more_than_a_layer_is_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The most bytes of weights at any time are the same for two layers and for three."""
    put, most = Side.put, []
    for layers in (2, 3):
        held: dict[str, int] = {}
        largest = [0]

        def counted(side: Any, name: str, value: torch.Tensor, held: Any = held, largest: Any = largest) -> None:
            held[name] = 0 if value.device.type == "meta" else value.nbytes
            largest[0] = max(largest[0], sum(held.values()))
            put(side, name, value)

        monkeypatch.setattr(Side, "put", counted)
        folder = engine.write_folder(tmp_path / str(layers), replace(engine.MODEL, num_hidden_layers=layers))
        every(Source(folder, stream=True).open("fp64", "bf16"), engine.drawn(), 1.0)
        assert sum(held.values()) == 0
        most.append(largest[0])
    assert most[0] == most[1]
