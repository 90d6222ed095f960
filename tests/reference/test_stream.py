"""Layer by layer the reference is what it is at once, and no more of it is held than one layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.parameters import EXPERTS, parameters
from validation.case.preset import preset
from validation.case.training import Training
from validation.compare.precision import DTYPES
from validation.reference import compute, stream
from validation.reference import model as reference_model
from validation.reference.experts import GRADIENT, PROBES, ExpertGradients, expert_reader
from validation.reference.seeded import SeededWeights
from validation.reference.sources import Precision, truth_precision
from validation.reference.store import Reference

CPU = torch.device("cpu")
TINY = preset("tiny")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors on many threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def case_of(precision: str, layers: int = 2, streamed: bool = True) -> Case:
    return Case(
        preset="tiny",
        model=replace(TINY.model, num_hidden_layers=layers),
        layout=Layout(dp=2) if streamed else Layout(),
        precision=precision,
        implementation="local",
        transport="gloo",
        seed=5,
        batch_size=2,
        micro_batch_size=1,
        seq_length=24,
        training=Training(stream=streamed),
    )


def computed(case: Case, home: Path, patch: pytest.MonkeyPatch) -> Reference:
    """With the weights that are made from the seed, whichever way."""
    weights = SeededWeights(case, CPU)
    patch.setattr(compute, "_weights", lambda case, folder: (weights, weights.digest))
    if not case.training.stream:
        patch.setattr(compute, "SeededWeights", type(None))
    return compute.compute(case, home, CPU, lambda step: None)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    difference, size = (float(torch.linalg.vector_norm(one.double())) for one in (found.double() - expected.double(), expected))
    return difference / size if size else difference


def expert_gradients(case: Case, stored: Reference, layer: int) -> ExpertGradients:
    probes, arriving = load_file(stored.probes), load_file(stored.probe_gradients)
    precision = Precision(DTYPES[truth_precision(case)], DTYPES[case.precision])
    given, weights = (probes[f"layers.{layer}.{kind}"].flatten(0, 1) for kind in PROBES)
    return ExpertGradients(
        given,
        weights,
        arriving[f"layers.{layer}.{GRADIENT}"].flatten(0, 1),
        expert_reader(SeededWeights(case, CPU), precision, CPU),
    )


@pytest.mark.parametrize(("precision", "limit"), [("fp64", 1e-13), ("fp32", 1e-12), ("bf16", 1e-5)])
def test_it_is_the_same_as_at_once(precision: str, limit: float, tmp_path: Path) -> None:
    """Every probe, gradient, choice and floor; for bf16 the truth is fp32, which is what the limit says."""
    with pytest.MonkeyPatch.context() as patch:
        streamed = computed(case_of(precision), tmp_path, patch)
    with pytest.MonkeyPatch.context() as patch:
        at_once = computed(case_of(precision, streamed=False), tmp_path, patch)
    worst = {}
    for name in ("probes", "probe_gradients", "gradients"):
        found, expected = (load_file(stored.folder / f"{name}.safetensors") for stored in (streamed, at_once))
        kept = {key: tensor for key, tensor in expected.items() if name != "gradients" or EXPERTS not in key}
        assert found.keys() == kept.keys()
        worst[name] = max(error(found[key], tensor) for key, tensor in kept.items())
        if name == "gradients":
            worst["experts"] = max(
                error(expert_gradients(case_of(precision), streamed, known.layer or 0).of(key, expert), expected[key][expert])
                for key, known in parameters(case_of(precision).model).items()
                if EXPERTS in key
                for expert in range(known.shape[0])
            )
    assert max(worst.values()) <= limit, worst
    if precision != "fp64":
        floors = [stored.facts()["floor"] for stored in (streamed, at_once)]
        assert floors[0].keys() == floors[1].keys()
        # The truth's own error is next to nothing beside a floor.
        assert all(floors[0][key] == pytest.approx(floor, rel=0.02, abs=1e-12) for key, floor in floors[1].items())
        chosen = [load_file(stored.routing) for stored in (streamed, at_once)]
        assert all(torch.equal(chosen[0][key], tensor) for key, tensor in chosen[1].items() if key.endswith("experts"))


def test_no_more_than_one_layer_is_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The most bytes of weights at any time are the same for two layers and for four."""
    put, read, most = stream.Side.put, stream.Experts.read, []
    for layers in (2, 4):
        held: dict[tuple[int, str], int] = {}
        largest, shared = [0], [0]

        def counted(side: stream.Side, name: str, value: torch.Tensor, held: Any = held, largest: Any = largest) -> None:
            held[id(side), name] = 0 if value.device.type == "meta" else value.nbytes
            largest[0] = max(largest[0], sum(held.values()))
            put(side, name, value)

        def stacked(*given: Any, shared: Any = shared) -> stream.Experts:
            found = read(*given)
            shared[0] = max(shared[0], sum(tensor.nbytes for tensor in found.held.values()))
            return found

        monkeypatch.setattr(stream.Side, "put", counted)
        monkeypatch.setattr(stream.Experts, "read", stacked)
        compute.compute(case_of("bf16", layers), tmp_path, CPU, lambda step: None)
        assert sum(held.values()) == 0
        most.append((largest[0], shared[0]))
    assert most[0] == most[1]
    assert shared[0] == 3 * 16 * 64 * 32 * 2  # of one layer, in bf16, whatever the truth is computed in


def test_an_experts_gradient_is_autograds() -> None:
    """Formula against automatic differentiation, for an expert with tokens and one without."""
    case = case_of("fp64")
    generator = torch.Generator().manual_seed(3)
    given, arriving = (torch.randn(9, 64, generator=generator, dtype=torch.float64) for _ in range(2))
    weights = torch.rand(9, 16, generator=generator, dtype=torch.float64)
    weights[:, 4] = 0
    weights[3:, 2] = 0
    names = [f"model.layers.1.{EXPERTS}{matrix}.weight" for matrix in ("gate_proj", "up_proj", "down_proj")]
    read = expert_reader(SeededWeights(case, CPU), Precision(torch.float64, torch.float64), CPU)
    found = ExpertGradients(given, weights, arriving, read)
    gate, up, down = (read(name, 2).requires_grad_() for name in names)
    output = weights[:, 2, None] * ((torch.nn.functional.silu(given @ gate.T) * (given @ up.T)) @ down.T)
    output.backward(arriving)
    for name, matrix in zip(names, (gate, up, down), strict=True):
        assert matrix.grad is not None
        assert error(found.of(name, 2), matrix.grad) < 1e-14
        assert not found.of(name, 4).any()


def test_eager_attention_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some heads after the others: output and gradients of query, key and value, to the bit."""
    module = torch.nn.Module()
    module.num_key_value_groups, module.training = 1, False  # type: ignore[assignment]
    results = []
    for limit in (1 << 30, 2 * 2 * 8 * 8):
        monkeypatch.setattr(reference_model, "SCORES_AT_ONCE", limit)
        generator = torch.Generator().manual_seed(1)
        query, key, value = (torch.randn(2, 5, 8, 6, generator=generator).requires_grad_() for _ in range(3))
        context, _ = reference_model._eager(module, query, key, value, None, scaling=0.3)
        results.append((context, *torch.autograd.grad(context.square().sum(), (query, key, value))))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_weights_are_the_same_however_they_are_asked_for() -> None:
    """A slice is the slice of the whole, one expert is the one among all, in any order; another seed makes others."""
    case = case_of("fp64")
    weights = SeededWeights(case, CPU)
    for name in ("model.layers.1.self_attn.q_b_proj.weight", f"model.layers.1.{EXPERTS}up_proj.weight"):
        whole = weights.read(name)
        index = (slice(3, 5), *(slice(1, size) for size in whole.shape[1:]))
        assert torch.equal(SeededWeights(case, CPU).read(name, index), whole[index])
        assert not torch.equal(SeededWeights(replace(case, seed=6), CPU).read(name), whole)
        assert float(whole.std()) == pytest.approx(1 / math.sqrt(whole.shape[-1]), rel=0.1)
    experts = weights.read(f"model.layers.1.{EXPERTS}up_proj.weight")
    assert not torch.equal(experts[0], experts[1])
