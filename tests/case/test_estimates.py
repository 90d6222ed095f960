"""What a case is estimated to take, beside what was measured, and what makes it less."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.case.test_preflight import GIB, STREAM, case, refusal
from validation.case import memory
from validation.case.case import PRECISIONS, TRANSPORTS
from validation.case.parameters import EXPERTS, parameters
from validation.case.preset import MINI, TINY, preset
from validation.case.training import Training


@pytest.mark.parametrize(
    ("precision", "sequences", "tokens", "measured"),
    [("fp64", 2, 512, 6.0), ("fp64", 4, 512, 8.4), ("fp64", 2, 1024, 9.5)],
)
def test_the_estimate_of_the_reference_is_near_what_was_measured(
    precision: str, sequences: int, tokens: int, measured: float
) -> None:
    """Peak resident memory of mini's reference in GiB: never less, and at most a fifth more."""
    found = memory.estimate(case(preset=MINI, precision=precision, batch_size=sequences, seq_length=tokens))
    assert measured <= found.reference / GIB < 1.2 * measured


@pytest.mark.parametrize(
    ("layout", "preset", "steps", "reference", "rank", "host"),
    [
        ("single", "tiny", 0, 1235, 1619, 2728),
        ("single", "tiny", 2, 3913, 2419, 4615),
        ("tp2", "tiny", 0, 1260, 1061, 3023),
        ("tp2", "tiny", 2, 3847, 1595, 4425),
        ("single", "mini", 2, 4473, 2224, 5001),
        ("tp2", "mini", 2, 4473, 1337, 5001),
        ("ep2", "mini", 0, 1651, 1370, 2826),
    ],
)
def test_the_estimate_of_a_case_with_large_weights_is_at_least_what_was_measured(
    layout: str, preset: str, steps: int, reference: int, rank: int, host: int
) -> None:
    """In MiB, on the CPU: optimizer steps count, and the reference process stays beside the ranks. At most half more."""
    sequences, tokens = (2 if layout == "tp2" else 1, 16) if preset == "tiny" else (2, 128)
    of, model = (TINY, {"intermediate_size": 262144}) if preset == "tiny" else (MINI, {"num_hidden_layers": 2})
    sizes = replace(case(layout, model, of), batch_size=sequences, micro_batch_size=1, seq_length=tokens)
    found = memory.estimate(replace(sizes, training=Training(steps=steps)))
    for estimated, measured in ((found.reference, reference), (found.rank, rank), (found.host, host)):
        assert measured <= estimated >> 20 <= 1.5 * measured


def test_steps_can_be_left_out_where_memory_is_short() -> None:
    """Of a case that takes some, the sentence says so."""
    steps = case(preset=MINI, training=Training(steps=2))
    assert ", --steps 0, " in str(refusal(steps, available=GIB))
    assert "--steps" not in str(refusal(case(preset=MINI), available=GIB))


@pytest.mark.parametrize("layout", ["tp2", "pp2", "ep2", "pp2vpp3", "tp2pp2", "tp2ep2"])
def test_more_ranks_leave_less_on_each(layout: str) -> None:
    """Whichever degree cuts the model."""
    single = memory.estimate(case(preset=MINI, batch_size=4))
    assert memory.estimate(case(layout, preset=MINI, batch_size=4)).rank < single.rank


def test_an_mtp_layer_takes_its_share_on_the_last_stage() -> None:
    """Its weights, a copy of the embedding, its logits."""
    without, with_mtp = (case("pp2", preset=MINI, model={"num_nextn_predict_layers": count}) for count in (0, 1))
    assert memory.estimate(with_mtp).reference > memory.estimate(without).reference
    copied = MINI.model.vocab_size * MINI.model.hidden_size * memory.BYTES["fp64"]
    assert memory.estimate(with_mtp).rank > memory.estimate(without).rank + copied


def test_lower_precision_and_shorter_sequences_take_less() -> None:
    """As the sentence promises."""
    whole = memory.estimate(case("tp2", preset=MINI))
    assert memory.estimate(case("tp2", preset=MINI, precision="fp32")).rank < whole.rank
    assert memory.estimate(case("tp2", preset=MINI, seq_length=128)).host < whole.host


def test_gpus_hold_their_own_ranks() -> None:
    """On nccl the host holds the reference and the processes, not the ranks' tensors."""
    found = memory.estimate(case("tp2", preset=MINI, transport="nccl"))
    assert found.host == max(found.reference, 2 * memory.PROCESS["nccl"])


def test_the_estimate_knows_every_precision_and_transport() -> None:
    """One that is added to the case is added to the formula."""
    assert set(memory.BYTES) >= set(PRECISIONS)
    assert set(memory.PROCESS) >= set(TRANSPORTS)


@pytest.mark.parametrize(
    ("layout", "tensors"),
    [
        ("single", ()),
        ("dp2", ((1, 1),)),
        ("cp2", ((1, 1),)),
        ("cp2dp2", ((1, 1),)),
        ("etp2", ((1, 0.5),)),
        ("ep2", ((1, 0),)),
        ("ep2dp4", ((1, 0), (0, 0.5))),
        ("tp2", ()),
        ("tp2pp2", ()),
    ],
)
def test_gradients_are_reduced_where_several_ranks_hold_the_same(layout: str, tensors: Sequence[tuple[float, float]]) -> None:
    """In fp32 at least. Experts that are spread are a tensor of their own."""
    sizes = {True: 0, False: 0}
    for parameter in parameters(case().model).values():
        sizes[EXPERTS in parameter.name] += math.prod(parameter.shape)
    reduced = max((others * sizes[False] + experts * sizes[True] for others, experts in tensors), default=0)
    for precision, size in (("bf16", 4), ("fp32", 4), ("fp64", 8)):
        assert memory.reduced(case(layout, precision=precision)) == size * reduced


@pytest.mark.parametrize(
    "given",
    [
        {"upto": "weights"},
        {"upto": "forward"},
        {"training": Training(optimizer="distributed")},
        {"training": Training(stream=True)},
        {"training": Training(inference="static")},
    ],
)
def test_no_gradients_are_reduced_whole(given: Mapping[str, Any]) -> None:
    """Where there are none, where each rank gets a part, and where one layer's come at a time."""
    assert memory.reduced(case("dp2")) > 0
    assert memory.reduced(case("dp2", upto="backward")) > 0
    assert memory.reduced(case("dp2", **given)) == 0


def test_layer_by_layer_depth_costs_nothing() -> None:
    """The largest layer is what counts, and not how many there are."""
    shallow, deep = (
        memory.estimate(case(model={"num_hidden_layers": layers}, preset=MINI, training=STREAM)) for layers in (4, 61)
    )
    assert shallow == deep
    assert shallow.host < memory.estimate(case(preset=MINI)).host / 2


def test_the_layers_of_deepseek_v3_are_estimated_by_layer() -> None:
    """A rank in bf16 with a device of its own asks little of the host; on the CPU it asks for what a layer takes."""
    v3 = preset("v3-layers")
    of = case(preset=v3, precision="bf16", training=STREAM, batch_size=2, seq_length=4096)
    assert 60 * GIB < memory.estimate(of).rank < 130 * GIB
    assert memory.estimate(replace(of, transport="nccl")).host < 16 * GIB


def test_in_lockstep_transformer_engine_makes_gradients_of_all_experts_at_once() -> None:
    """Those of gate and up, in the model's precision. On a GPU the truth's gradients of the last stage are on the host by then.

    Measured on an H200, all of the card: 94.4 GiB before that and 97.1 with Transformer Engine since.
    """
    v3 = preset("v3")
    local, te = (
        memory.estimate(
            case(preset=v3, precision="bf16", training=STREAM, seq_length=1024, implementation=name, transport="nccl")
        )
        for name in ("local", "te")
    )
    model = v3.model
    assert te.rank - local.rank == 2 * model.n_routed_experts * 2 * model.moe_intermediate_size * model.hidden_size
    assert 80 * GIB < local.card < 95 * GIB
    assert 97 * GIB < te.card < 105 * GIB
    head = 4 * model.vocab_size * model.hidden_size
    assert head < te.host - 2 * memory.PROCESS["nccl"] < 2 * head
