"""Known bugs taken out of a rank: every bug of the table can be, and a rank without one is left alone."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from megatron.core.transformer.enums import AttnMaskType

import tests.core  # noqa: F401 - before megatron-core
from validation.candidate import mends
from validation.candidate.mends import MENDS, Mend, with_mends
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.run.known import table
from validation.run.plugin import Plugin


def case(*mended: str, **numbers: Any) -> Case:
    model = replace(TINY.model, **numbers)
    return Case("tiny", model, Layout(), "fp64", "local", "gloo", 1, 4, 2, 48, mended=mended)


def test_every_known_bug_can_be_taken_out() -> None:
    """An entry without a mend could excuse anything, unless every run has the reference's value, or there is none."""
    assert set(MENDS) == {bug.id for bug in table() if not (bug.given or bug.instead)}


def test_a_case_without_known_bugs_keeps_its_plugin() -> None:
    plugin = Plugin()
    assert with_mends(case(), Path("none"), plugin) is plugin


def test_a_bug_that_nobody_can_take_out_is_an_error() -> None:
    """And no silent run with the bug in it."""
    with pytest.raises(KeyError):
        with_mends(case("unheard-of"), Path("none"), Plugin())


def test_the_plugin_sees_the_model_after_the_bugs_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it puts in stays in."""
    seen: list[str] = []
    monkeypatch.setitem(MENDS, "a-bug", Mend(built=lambda case, chunk: seen.append("mended")))
    plugin = with_mends(case("a-bug"), Path("none"), Plugin(built=lambda case, chunks: seen.append("plugin")))
    plugin.built(case("a-bug"), [torch.nn.Module()])
    assert seen == ["mended", "plugin"]


def test_experts_count_in_the_norm_on_every_rank() -> None:
    """Transformer Engine's grouped layer is known by its number of products; nothing else gets the mark."""
    of = case("norm-misses-experts")
    experts, dense = torch.nn.Module(), torch.nn.Linear(2, 2, bias=False)
    vars(experts)["num_gemms"] = 2
    for name in ("weight0", "weight1"):
        experts.register_parameter(name, torch.nn.Parameter(torch.zeros(2, 2)))
    with_mends(of, Path("none"), Plugin()).built(of, [torch.nn.ModuleList([experts, dense])])
    marked = [getattr(weight, "tensor_model_parallel", False) for weight in (*experts.parameters(), *dense.parameters())]
    assert marked == [True, True, False]


def test_delayed_gradients_are_added_up_by_their_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the configuration of data parallelism says stays, and so does the caller's own."""
    seen: list[Any] = []

    def init(self: Any, config: Any, ddp_config: Any, module: Any, **named: Any) -> None:
        seen.append((config, ddp_config, module, named))

    monkeypatch.setattr(DistributedDataParallel, "__init__", init)
    with_mends(case("expert-gradients-read-too-early"), Path("none"), Plugin())
    given = DistributedDataParallelConfig(bucket_size=7)
    DistributedDataParallel("config", given, module="chunk", disable_bucketing=True)
    ((config, ddp, module, named),) = seen
    assert (config, module, named) == ("config", "chunk", {"disable_bucketing": True})
    assert ddp == dataclasses.replace(given, delay_wgrad_compute=True)
    assert not given.delay_wgrad_compute


def test_transformer_engine_is_asked_for_the_mask_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed documents bring no mask, and attention of another kind stays what it is."""
    monkeypatch.setenv("NVTE_UNFUSED_ATTN", "0")
    asked: list[Any] = []

    class Attention:
        def forward(self, query: Any, key: Any, value: Any, attention_mask: Any, attn_mask_type: Any, **named: Any) -> None:
            asked.append((attention_mask, attn_mask_type, named, os.environ["NVTE_UNFUSED_ATTN"]))

    module = ModuleType("megatron.core.extensions.transformer_engine")
    vars(module)["TEDotProductAttention"] = Attention
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with_mends(case("mask-ignored-by-transformer-engine"), Path("none"), Plugin())
    kinds = AttnMaskType
    for mask, kind in ((None, kinds.causal), ("mask", kinds.no_mask), ("mask", kinds.causal)):
        Attention().forward("query", "key", "value", mask, kind, packed_seq_params="packed")
    packed = {"packed_seq_params": "packed"}
    assert asked == [
        (None, kinds.causal, packed, "0"),
        ("mask", kinds.no_mask, packed, "0"),
        ("mask", kinds.arbitrary, packed, "1"),
    ]
    assert os.environ["NVTE_UNFUSED_ATTN"] == "0", "another model may be built, which asks for it"
    monkeypatch.delenv("NVTE_UNFUSED_ATTN")
    Attention().forward("query", "key", "value", "mask", kinds.causal)
    assert "NVTE_UNFUSED_ATTN" not in os.environ


def test_only_experts_go_to_the_buffers_of_expert_parallelism() -> None:
    """A shared expert is a dense layer."""
    of = case("expert-gradients-not-reduced")
    weights = {name: torch.nn.Parameter(torch.zeros(1)) for name in ("mlp.experts.local", "mlp.shared_experts.fc1", "norm")}
    chunk: Any = SimpleNamespace(named_parameters=lambda: weights.items())
    with_mends(of, Path("none"), Plugin()).built(of, [chunk])
    assert [getattr(weight, "allreduce", True) for weight in weights.values()] == [False, True, True]


RELEASE = """
def process_mtp_loss(hidden, labels, loss_mask=None, cp_group=None):
    tokens = loss_mask.sum()
    labels, _ = roll_tensor(labels)
    loss_mask, targets = roll_tensor(loss_mask)
    return loss_mask * tokens / targets.clamp(min=1)

def roll_tensor(tensor, cp_group=None):
    rolled = tensor.roll(-1, -1)
    rolled[..., -1] = 0
    return rolled, rolled.sum()
"""


def test_mtp_targets_are_counted_over_the_context_parallel_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the tokens: another rank has 9 tokens and 7 targets. The module that has imported the function gets it, too."""
    of = case("mtp-targets-counted-per-rank", num_nextn_predict_layers=1)
    module, user = ModuleType("megatron.core.mtp_of_a_release"), ModuleType("megatron.core.user_of_a_release")
    exec(RELEASE, vars(module))
    user.process_mtp_loss = module.process_mtp_loss  # type: ignore[attr-defined]
    for made in (module, user):
        monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(vars(mends)["importlib"], "import_module", lambda name: module)
    monkeypatch.setattr(vars(mends)["parallel_state"], "get_context_parallel_group", lambda: None)
    monkeypatch.setattr(vars(mends)["dist"], "all_reduce", lambda counts, group: counts.add_(torch.tensor([9.0, 7.0])))
    mask, labels = torch.ones(1, 5), torch.ones(1, 5, dtype=torch.long)
    assert user.process_mtp_loss(None, labels, loss_mask=mask).max() == pytest.approx(5 / 4)
    MENDS["mtp-targets-counted-per-rank"].install(of, lambda: 14)
    assert user.process_mtp_loss(None, labels, loss_mask=mask).max() == pytest.approx((5 + 9) / (4 + 7))


def test_an_mtp_mean_is_over_the_targets_of_all_context_parallel_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divided by the mean of two ranks: the other has 7 targets. Of tokens and labels nothing is changed."""
    of = replace(case("mtp-mean-counted-per-rank", num_nextn_predict_layers=1), layout=Layout.parse("cp2"))
    module, user = ModuleType("megatron.core.mtp_of_a_release"), ModuleType("megatron.core.user_of_a_release")
    exec(RELEASE, vars(module))
    user.roll_tensor = module.roll_tensor  # type: ignore[attr-defined]
    for made in (module, user):
        monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(vars(mends)["importlib"], "import_module", lambda name: module)
    monkeypatch.setattr(vars(mends)["parallel_state"], "get_context_parallel_group", lambda: None)
    monkeypatch.setattr(vars(mends)["dist"], "all_reduce", lambda count, group: count.add_(7.0))
    MENDS["mtp-mean-counted-per-rank"].install(of, lambda: 14)
    for roll in (module.roll_tensor, user.roll_tensor):
        moved, left = roll(torch.ones(1, 5))
        assert (moved.tolist(), float(left)) == ([[1.0, 1.0, 1.0, 1.0, 0.0]], (4 + 7) / 2)
        assert roll(torch.ones(1, 5, dtype=torch.long))[1] == 4


def test_balancing_losses_count_the_largest_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of the router's own choice. What somebody else hands them stays, for that would be another bug."""
    of, module = case("balancing-by-biased-choice"), ModuleType("megatron.core.router_of_a_release")
    own = torch.tensor([[False, True, False]])
    vars(module).update(
        topk_softmax_with_capacity=lambda logits, topk: (logits, own, own.sum(dim=0)),
        sequence_load_balancing_loss_func=lambda probs, routing_map, topk: routing_map,
        switch_load_balancing_loss_func=lambda probs, tokens_per_expert, topk: tokens_per_expert,
    )
    monkeypatch.setattr(vars(mends)["importlib"], "import_module", lambda name: module)
    MENDS["balancing-by-biased-choice"].install(of, lambda: 8)
    made, scores = vars(module), torch.tensor([[0.5, 0.1, 0.4]])
    _, chosen, loads = made["topk_softmax_with_capacity"](scores, topk=2)
    assert made["sequence_load_balancing_loss_func"](probs=scores, routing_map=chosen, topk=2).tolist() == [[True, False, True]]
    assert made["switch_load_balancing_loss_func"](probs=scores, tokens_per_expert=loads, topk=2).tolist() == [1, 0, 1]
    other = torch.tensor([[True, False, False]])
    assert made["sequence_load_balancing_loss_func"](probs=scores, routing_map=other, topk=2) is other


def test_an_mtp_projection_is_gathered_without_a_sum_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """megatron-core's own function, which later releases call there."""
    of, module = case("mtp-gradient-times-tp"), ModuleType("megatron.core.mtp_of_a_release")
    monkeypatch.setattr(vars(mends)["importlib"], "import_module", lambda name: module)
    MENDS["mtp-gradient-times-tp"].install(of, lambda: 8)
    assert vars(module)["all_gather_last_dim_from_tensor_parallel_region"] is gather_from_tensor_model_parallel_region


@pytest.mark.parametrize(
    ("layout", "held", "moved", "wanted"),
    [
        ("cp2", [1, 2, 7, 8], [2, 3, 8, 0], [2, 3, 8, 0]),  # the first chunk and the last
        ("cp2", [3, 4, 5, 6], [4, 5, 6, 7], [0, 5, 6, 0]),
        ("single", [1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 6, 7, 8, 0], [2, 3, 0, 5, 6, 0, 8, 0]),
        (
            "single",
            [1, 2, 3, 4, 5, 6, 7, 8],
            [2, 3, 1, 5, 6, 4, 8, 7],
            [2, 3, 1, 5, 6, 4, 8, 7],
        ),  # each in itself
        ("single", [5, 6, 7, 8], [6, 7, 8, 0], [6, 7, 8, 0]),  # a tensor-parallel rank's part of the padding, since 0.18
    ],
)
def test_an_mtp_layer_takes_nothing_of_the_next_document(
    monkeypatch: pytest.MonkeyPatch, layout: str, held: list[int], moved: list[int], wanted: list[int]
) -> None:
    """Three documents. What somebody else puts at their ends stays, and so does a number of targets that is off."""
    of = replace(case("mtp-takes-the-next-document", num_nextn_predict_layers=1), layout=Layout.parse(layout), seq_length=8)
    module, off = ModuleType("megatron.core.mtp_of_a_release"), 5
    vars(module)["roll_tensor"] = lambda tensor: (torch.tensor([moved]), sum(moved) + off)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(vars(mends)["importlib"], "import_module", lambda name: module)
    monkeypatch.setattr(vars(mends)["parallel_state"], "get_context_parallel_rank", lambda: int(held[0] == 3))
    step = vars(vars(mends)["mended_mtp"])["step"]
    monkeypatch.setattr(step, "called", lambda case, model, given: vars(module)["roll_tensor"](torch.tensor([held])))
    MENDS["mtp-takes-the-next-document"].install(of, lambda: 8)
    found, left = step.called(of, None, {"documents": torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2]])})
    assert (found.tolist(), left) == ([wanted], sum(wanted) + off)


@pytest.mark.parametrize("counted", ["left", "other"])
def test_loads_are_the_routers_choice_unless_others_are_counted(monkeypatch: pytest.MonkeyPatch, counted: str) -> None:
    """What is counted behind the capacity is the bug; what is counted of anything else is another one."""
    own, maps = torch.ones(2, 3), {"left": torch.zeros(2, 3), "other": torch.zeros(1, 3)}
    switches = vars(mends)["mended_switches"]
    module = SimpleNamespace(apply_router_token_dropping=lambda probs, chosen: (probs, maps["left"]))
    monkeypatch.setattr(vars(switches)["importlib"], "import_module", lambda name: module)
    router = vars(switches)["TopKRouter"]
    monkeypatch.setattr(router, "_apply_expert_bias", lambda self, chosen: chosen)
    MENDS["loads-counted-after-capacity"].install(case("loads-counted-after-capacity"), lambda: 8)
    module.apply_router_token_dropping(own, own)
    assert router._apply_expert_bias(None, maps[counted]) is (own if counted == "left" else maps["other"])


def test_an_mtp_layer_is_told_of_the_padding_of_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask is moved over the whole sequence and then cut: the first of two ranks has four positions.

    A release tells a layer nothing, or moves the part of the rank; whatever else it is told stays.
    """
    of = replace(case("mtp-layers-count-padding", num_nextn_predict_layers=2), layout=Layout.parse("tp2"), seq_length=8)
    module, mended = ModuleType("megatron.core.mtp_of_a_release"), vars(mends)["mended_mtp"]

    def roll(tensor: torch.Tensor, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([tensor[:, 1:], torch.zeros_like(tensor[:, :1])], 1), tensor.sum()

    class Layer:
        def forward(self, padding_mask: torch.Tensor) -> None: ...

    vars(module).update(roll_tensor=roll, MultiTokenPredictionLayer=Layer)
    monkeypatch.setattr(vars(mended)["importlib"], "import_module", lambda name: module)
    state = SimpleNamespace(get_context_parallel_group=lambda: None, get_tensor_model_parallel_rank=lambda: 0)
    monkeypatch.setattr(mended, "parallel_state", state)
    monkeypatch.setattr(vars(mended)["step"], "called", lambda case, model, given: torch.zeros(()))
    seen: list[list[bool]] = []

    class Experts(torch.nn.Module):
        def forward(self, given: torch.Tensor, padding_mask: torch.Tensor | None = None) -> None:
            seen.append([] if padding_mask is None else padding_mask[0].tolist())

    experts = [Experts(), Experts()]
    blocks = [SimpleNamespace(transformer_layer=SimpleNamespace(mlp=one)) for one in experts]
    chunk = SimpleNamespace(modules=lambda: [SimpleNamespace(mtp=SimpleNamespace(layers=blocks))])
    mend = MENDS["mtp-layers-count-padding"]
    mend.install(of, lambda: 8)
    mend.wrapped(of, chunk)
    vars(mended)["step"].called(of, None, {"padding": torch.tensor([[False] * 3 + [True] * 5])})
    in_parts, others = torch.tensor([[False, True, False, False]]), torch.tensor([[True, False, False, False]])
    for index, told in ((0, None), (1, None), (1, in_parts), (1, others)):
        experts[index](torch.zeros(1), padding_mask=told)
    right = [[False, False, True, True], [False, True, True, True]]
    assert seen == [*right, right[1], others[0].tolist()]
