"""Weights in a rank: what nobody set is seen, what was set is what the file holds, and small experts are measured together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.candidate.test_mapping import megatron_tensors
from validation.candidate import load as module
from validation.candidate.load import (
    TOGETHER,
    TOGETHER_ON_DEVICE,
    compare_weights,
    copy_weights,
    fill_with_nan,
    held_by,
    load,
    together,
)
from validation.candidate.recorder import Recorder
from validation.candidate.weights import Holding, Ranks
from validation.case.model import Model
from validation.case.parameters import Parameter, parameters
from validation.case.preset import TINY

ONE = Ranks(tp=(0, 1), etp=(0, 1), ep=(0, 1))
MODEL = replace(TINY.model, num_hidden_layers=2)
BIAS = "decoder.layers.1.mlp.router.expert_bias"
DOWN = "model.layers.1.mlp.experts.down_proj.weight"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank holds everything."""
    monkeypatch.setattr(Ranks, "here", classmethod(lambda cls: ONE))


def built(model: Model = MODEL, dtype: torch.dtype = torch.float64) -> Any:
    """A module with every tensor of megatron-core's model under its name; the expert bias is a buffer there, too."""
    root = torch.nn.Module()
    for name, shape in megatron_tensors(model, "local", ONE).items():
        *path, last = name.split(".")
        at = root
        for word in path:
            if not hasattr(at, word):
                at.add_module(word, torch.nn.ModuleList() if word in ("layers", "local_experts") else torch.nn.Module())
            at = getattr(at, word)
            if path[-2:-1] == ["layers"] or word.isdecimal():
                at.layer_number = int(word) + 1 if word.isdecimal() else 0
        if last == "expert_bias":
            at.register_buffer(last, torch.zeros(shape, dtype=dtype))
        else:
            at.register_parameter(last, torch.nn.Parameter(torch.zeros(shape, dtype=dtype)))
    return root


class File:
    """A checkpoint of random numbers, without the file."""

    def __init__(self, model: Model = MODEL) -> None:
        made = torch.Generator().manual_seed(5)
        self.held = {
            name: torch.randn(parameter.shape, generator=made, dtype=torch.float64)
            for name, parameter in parameters(model).items()
        }

    def read(self, name: str, index: tuple[slice, ...]) -> torch.Tensor:
        """The part of a parameter."""
        return self.held[name][index]


def every(chunk: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from chunk.state_dict(keep_vars=True).items()


def test_before_anything_is_set_everything_is_nan() -> None:
    """Buffers included, in every chunk: what `fill` leaves alone cannot be right by chance."""
    chunks, seen = [built(), built()], []

    def fill() -> None:
        for chunk in chunks:
            for name, tensor in every(chunk):
                seen.append((name, bool(torch.isnan(tensor).all())))
                tensor.detach().fill_(1.0)

    recorder = Recorder(0)
    load(chunks, recorder, fill)
    assert len(seen) == 2 * len(list(every(chunks[0])))
    assert [name for name, unset in seen if not unset] == []
    assert recorder.problems == {}


@pytest.mark.parametrize("name", ["decoder.final_layernorm.weight", BIAS, "decoder.layers.1.input_layernorm.weight"])
def test_one_element_that_nobody_sets_is_a_problem(name: str) -> None:
    """One of many, in one tensor of one chunk; the others are none, whatever their sum is."""
    chunks = [built(), built()]

    def fill() -> None:
        for chunk in chunks:
            for other, tensor in every(chunk):
                if chunk is not chunks[1] or other != name:
                    tensor.detach().fill_(1.0).view(-1)[:2] = torch.tensor([math.inf, -math.inf])
                else:
                    tensor.detach()[1:] = 1.0

    recorder = Recorder(0)
    load(chunks, recorder, fill)
    assert recorder.problems == {f"weights/{name}": f"{name} holds elements that no checkpoint tensor set"}


def test_a_router_s_bias_is_float32_before_it_is_set() -> None:
    """As the checkpoint has it: set in bfloat16 it would lose its digits."""
    chunk = built(dtype=torch.bfloat16)
    bias = torch.full((MODEL.n_routed_experts,), 0.1)
    load([chunk], Recorder(0), lambda: dict(every(chunk))[BIAS].copy_(bias))  # type: ignore[arg-type]
    assert torch.equal(dict(every(chunk))[BIAS], bias)


def test_every_tensor_is_held_and_one_that_nobody_knows_is_a_problem() -> None:
    """It stays NaN, but for an integer, and the sentence names it; all others are held, each by itself."""
    first, second = built(), built()
    second.decoder.register_parameter("adapter", torch.nn.Parameter(torch.zeros(3)))
    second.decoder.register_buffer("calls", torch.tensor(3))
    assert torch.equal(dict(fill_with_nan([second]))["decoder.calls"], torch.tensor(3))
    recorder = Recorder(0)
    held = held_by([first, second], MODEL, recorder)
    strange = ("decoder.adapter", "decoder.calls")
    known = [tensor for chunk in (first, second) for name, tensor in every(chunk) if name not in strange]
    assert [id(tensor) for tensor, _ in held] == [id(tensor) for tensor in known]
    assert all(part.megatron for _, parts in held for part in parts)
    assert list(recorder.problems) == ["weights/decoder.adapter", "weights/decoder.calls"]
    assert recorder.problems["weights/decoder.adapter"].startswith("decoder.adapter: no row of the mapping names it")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_is_copied_is_the_file_to_the_bit(dtype: torch.dtype) -> None:
    """In the tensor's own dtype; every element of every parameter is measured, and none differs."""
    chunk, file, recorder = built(dtype=dtype), File(), Recorder(0)
    held = held_by([chunk], MODEL, recorder)
    load([chunk], recorder, lambda: copy_weights(held, file))  # type: ignore[arg-type]
    compare_weights(held, file, recorder)  # type: ignore[arg-type]
    assert recorder.problems == {}
    assert set(recorder.pieces) == {f"weights/{name}" for name in parameters(MODEL)}
    for name, parameter in parameters(MODEL).items():
        pieces = recorder.pieces[f"weights/{name}"]
        assert sum(piece.difference.count for piece in pieces) == math.prod(parameter.shape), name
        assert [piece.difference.differing for piece in pieces] == [0] * len(pieces), name


def test_one_unit_in_the_last_place_of_one_weight_is_seen_and_placed() -> None:
    """Exactly: an extent is kept of what rounding would explain elsewhere."""
    chunk, file, recorder = built(), File(), Recorder(0)
    held = held_by([chunk], MODEL, recorder)
    copy_weights(held, file)  # type: ignore[arg-type]
    norm = dict(every(chunk))["decoder.final_layernorm.weight"].detach()
    norm[7] = torch.nextafter(norm[7], norm[7] + 1)
    compare_weights(held, file, recorder)  # type: ignore[arg-type]
    wrong = {name: piece for name, pieces in recorder.pieces.items() for piece in pieces if piece.difference.differing}
    assert list(wrong) == ["weights/model.norm.weight"]
    (piece,) = wrong.values()
    assert (piece.difference.differing, piece.difference.max_index) == (1, (7,))
    assert piece.extent is not None


def test_copying_leaves_no_trace_in_the_graph() -> None:
    """Weights are leaves before and after."""
    chunk = built()
    held = held_by([chunk], MODEL, Recorder(0))
    copy_weights(held, File())  # type: ignore[arg-type]
    assert all(tensor.is_leaf and tensor.grad_fn is None for tensor, _ in held)


def part(expert: int, name: str = DOWN, rows: tuple[int, int] = (0, 2)) -> tuple[Holding, torch.Tensor]:
    """Two rows of four of one expert, each element with the expert's number."""
    parameter = Parameter(name, 1, (8, 4, 3))
    box = ((expert, expert + 1), rows, (0, 3))
    return Holding("", (0, 2), parameter, box), torch.full((1, 2, 3), float(expert))


def joined(*parts: tuple[Holding, torch.Tensor]) -> list[tuple[str, Any, list[float]]]:
    found = []
    for parameter, box, tensor in together(parts):
        assert tuple(tensor.shape) == tuple(stop - start for start, stop in box)
        found.append((parameter.name, box, tensor[:, 0, 0].tolist()))
    return found


def test_neighbouring_experts_are_one_piece_in_their_order() -> None:
    """Whichever comes first; a gap between them and another tensor begin a new one."""
    other = DOWN.replace("down", "gate")
    assert joined(part(2), part(0), part(5), part(1), part(1, other), part(0, other)) == [
        (DOWN, ((0, 3), (0, 2), (0, 3)), [0.0, 1.0, 2.0]),
        (DOWN, ((5, 6), (0, 2), (0, 3)), [5.0]),
        (other, ((0, 2), (0, 2), (0, 3)), [0.0, 1.0]),
    ]


def test_experts_whose_rows_are_others_are_not_joined() -> None:
    """Gate and up of one rank, or what two ranks hold: each cut is a piece of its own."""
    assert [box for _, box, _ in joined(part(0), part(1, rows=(2, 4)), part(1), part(0, rows=(2, 4)))] == [
        ((0, 2), (0, 2), (0, 3)),
        ((0, 2), (2, 4), (0, 3)),
    ]
    assert [box for _, box, _ in joined(part(0), part(1, rows=(2, 4)))] == [
        ((0, 1), (0, 2), (0, 3)),
        ((1, 2), (2, 4), (0, 3)),
    ]


def test_what_is_no_expert_is_not_joined() -> None:
    """Though its parts follow each other."""
    name = "model.embed_tokens.weight"
    assert len(joined(part(0, name), part(1, name))) == 2


@pytest.mark.parametrize(("most", "lengths"), [(18, [3, 1]), (17, [2, 2]), (12, [2, 2]), (11, [1, 1, 1, 1]), (24, [4])])
def test_no_more_than_so_many_elements_are_joined(monkeypatch: pytest.MonkeyPatch, most: int, lengths: list[int]) -> None:
    """Six an expert."""
    monkeypatch.setattr(module, "TOGETHER", most)
    assert [len(experts) for _, _, experts in joined(*(part(expert) for expert in range(4)))] == lengths


def test_on_a_device_more_are_joined() -> None:
    """Each measurement is a launch there."""
    holding = part(0)[0]
    following = part(1)[0]
    for on_device, most in ((False, TOGETHER), (True, TOGETHER_ON_DEVICE)):
        for size, expected in ((most // 2, True), (most // 2 + 1, False)):
            tensor: Any = SimpleNamespace(is_cuda=on_device, numel=lambda size=size: size)
            assert module._continues([(holding, tensor)], (following, tensor)) is expected


def test_nothing_held_is_nothing_measured() -> None:
    assert list(together([])) == []


def test_a_piece_of_one_is_the_tensor_itself() -> None:
    """Large experts are not copied."""
    holding, tensor = part(3)
    assert next(iter(together([(holding, tensor)])))[2] is tensor
