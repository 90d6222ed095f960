"""What releases after 0.16 need, each seen on a stand-in for them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from validation.candidate import platform, versions
from validation.candidate.weights import Ranks, UnknownTensorError, holdings
from validation.case.model import Model
from validation.case.preset import TINY

RANKS = Ranks(tp=(0, 1), etp=(0, 1), ep=(0, 1))
KERNELS = """
import triton
import triton.language as tl

@triton.jit
def kernel(pointer, SIZE: tl.constexpr): ...

@triton.jit(do_not_specialize=["pointer"])
def other(pointer, SIZE: tl.constexpr): ...
"""
ASKS = """
try:
    import triton
    HAVE_TRITON = True
except ImportError:
    HAVE_TRITON = False
"""


@pytest.fixture
def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "triton" else real(name, *rest))


@pytest.fixture
def release(tmp_path: Path) -> dict[str, ModuleType]:
    """Modules of a release, made from their text under the names that it gives them."""
    made: dict[str, ModuleType] = {}
    for name, text in (("moe.paged_stash", KERNELS), ("moe.ops.paged_stash", KERNELS), ("moe.fused", ASKS)):
        file = tmp_path / f"{name.replace('.', '_')}.py"
        file.write_text(text)
        spec = importlib.util.spec_from_file_location(f"megatron.core.transformer.{name}", file)
        assert spec is not None
        made[name] = importlib.util.module_from_spec(spec)
    return made


def _execute(module: ModuleType) -> None:
    assert module.__spec__ is not None
    assert module.__spec__.loader is not None
    module.__spec__.loader.exec_module(module)


@pytest.mark.usefixtures("without_triton")
@pytest.mark.parametrize("name", ["moe.paged_stash", "moe.ops.paged_stash"])
def test_kernels_that_no_case_launches_need_no_triton(release: dict[str, ModuleType], name: str) -> None:
    """They lie in one module in 0.18 and in another since 0.19; whoever launches one is told what is missing."""
    with pytest.raises(ImportError):
        _execute(release[name])
    with platform.unused_kernels():
        _execute(release[name])
    for kernel in ("kernel", "other"):
        with pytest.raises(RuntimeError, match="needs triton, which is not installed; leave moe_paged_stash off"):
            vars(release[name])[kernel][(1,)](torch.zeros(1), SIZE=1)


@pytest.mark.usefixtures("without_triton")
def test_every_other_module_knows_that_triton_is_not_there(release: dict[str, ModuleType]) -> None:
    with platform.unused_kernels():
        _execute(release["moe.fused"])
    assert release["moe.fused"].HAVE_TRITON is False


@pytest.mark.usefixtures("without_triton")
def test_imports_take_their_arguments_by_name() -> None:
    """As huggingface_hub gives them."""
    with platform.unused_kernels(), platform.broken_is_absent():
        assert __import__("os.path", fromlist=["join"], level=0).join is not None


@pytest.mark.usefixtures("without_triton")
def test_imports_are_as_before_afterwards() -> None:
    before = __import__
    with platform.unused_kernels():
        pass
    assert __import__ is before


@pytest.mark.usefixtures("without_triton")
def test_an_import_may_name_its_arguments(release: dict[str, ModuleType]) -> None:
    """As huggingface_hub's lazy modules do, which a megatron-core imports within."""
    kernels = {"__name__": release["moe.paged_stash"].__name__}
    with platform.broken_is_absent(), platform.unused_kernels():
        assert __import__("os.path", globals={}, locals={}, fromlist=["join"], level=0) is os.path
        assert __import__("triton", globals=kernels, fromlist=["language"]).language is not None
        with pytest.raises(ImportError):
            __import__("triton", globals={"__name__": "other"})


def test_what_breaks_under_an_import_by_name_counts_as_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep_ep.py").write_text("raise OSError('deep_ep.so: cannot open')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(platform, "broken", {})
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    with platform.broken_is_absent():
        with pytest.raises(OSError, match="cannot open"):
            __import__("deep_ep", globals={"__name__": "someone.else"}, fromlist=["Buffer"])
        with pytest.raises(ImportError, match=r"deep_ep: deep_ep\.so: cannot open"):
            __import__("deep_ep", globals={"__name__": "megatron.core.fused"}, fromlist=["Buffer"], level=0)
    assert platform.broken == {"deep_ep": "OSError: deep_ep.so: cannot open"}


def test_an_installed_triton_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    before = __import__
    with platform.unused_kernels():
        assert __import__ is before


@pytest.mark.parametrize("linear", [None, "its own"])
def test_attention_knows_the_whole_linear_layer(linear: Any) -> None:
    """Since 0.17 its name is None without Transformer Engine, so that attention refuses the layer; until 0.16 it is there."""
    attention = ModuleType("attention")
    vars(attention).update(HAVE_TE=True, Linear=linear)
    platform._undetected_absence({"transformer.multi_latent_attention": attention})
    assert vars(attention)["HAVE_TE"] is False
    layers = importlib.import_module("megatron.core.post_training.modelopt.layers")
    assert vars(attention)["Linear"] is (layers.Linear if linear is None else linear)


def test_a_release_without_that_name_is_given_none() -> None:
    attention = ModuleType("attention")
    platform._undetected_absence({"transformer.multi_latent_attention": attention})
    assert not hasattr(attention, "Linear")


def test_no_layer_is_an_inference_layer_without_transformer_engine() -> None:
    """On main the question raises TypeError; in releases it is not asked."""
    asking, not_asking = ModuleType("main"), ModuleType("release")
    vars(asking)["is_inference_column_parallel_linear"] = lambda module: isinstance(module, SimpleNamespace())  # type: ignore[arg-type]
    for module in (asking, not_asking):
        platform._mocked_inference_layers({"transformer.multi_token_prediction": module})
    assert vars(asking)["is_inference_column_parallel_linear"](torch.nn.Linear(1, 1)) is False
    assert not hasattr(not_asking, "is_inference_column_parallel_linear")


@pytest.mark.parametrize("weights", [[], ["a weight in fp8"]])
def test_a_step_without_weights_in_fp8_asks_for_no_transformer_engine(weights: list[str]) -> None:
    """In 0.12 the distributed optimizer's step does; weights in fp8 do need it."""

    def absent(*args: Any) -> None:
        raise RuntimeError("Invalid Transformer Engine version")

    older, newer = ModuleType("older"), ModuleType("newer")
    vars(older)["_quantize_param_shard_impl"] = absent
    for module in (older, newer):
        platform._nothing_in_fp8({"fp8_utils": module})
    with pytest.raises(RuntimeError) if weights else contextlib.nullcontext():
        assert older._quantize_param_shard_impl(weights, [], []) is None
    assert not hasattr(newer, "_quantize_param_shard_impl")


def test_nothing_of_a_saved_checkpoint_holds_the_process_of_its_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that is killed would leave that process behind."""
    name = "megatron.core.dist_checkpointing.strategies.filesystem_async"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    queue = ModuleType("queue")
    vars(sys.modules[name])["_results_queue"] = queue
    held = weakref.ref(queue)
    del queue
    platform.end_writers()
    assert held() is None


def _without_mask(router: Any, routing_map: torch.Tensor) -> None:
    router.local_tokens_per_expert += routing_map.sum(dim=0)


def _by_expert(router: Any, routing_map: torch.Tensor, padding_mask: torch.Tensor | None = None) -> None:
    _without_mask(router, routing_map if padding_mask is None else routing_map & ~padding_mask)


def _by_token(router: Any, routing_map: torch.Tensor, padding_mask: torch.Tensor | None = None) -> None:
    _without_mask(router, routing_map if padding_mask is None else routing_map & (~padding_mask).unsqueeze(-1))


@pytest.mark.parametrize("tokens", [2, 3])
@pytest.mark.parametrize("counted", [_by_expert, _by_token])
def test_padding_is_taken_out_of_the_loads(counted: Any, tokens: int) -> None:
    """Up to 0.19 that raises an exception, or with as many tokens as experts takes out an expert."""
    router = type("TopKRouter", (), {"_apply_expert_bias": counted})
    module = ModuleType("router")
    vars(module)["TopKRouter"] = router
    platform._padding_of_tokens({"transformer.moe.router": module})
    assert (router._apply_expert_bias is counted) == (counted is _by_token)  # type: ignore[attr-defined]
    found: Any = router()
    found.local_tokens_per_expert = torch.zeros(3)
    padding = torch.arange(tokens) == 0
    found._apply_expert_bias(torch.ones(tokens, 3, dtype=torch.bool), padding_mask=padding)
    found._apply_expert_bias(torch.ones(tokens, 3, dtype=torch.bool))
    assert found.local_tokens_per_expert.tolist() == [2 * tokens - 1] * 3


def test_a_router_that_knows_no_padding_is_left_alone() -> None:
    router = type("TopKRouter", (), {"_apply_expert_bias": _without_mask})
    module = ModuleType("router")
    vars(module)["TopKRouter"] = router
    platform._padding_of_tokens({"transformer.moe.router": module})
    assert router._apply_expert_bias is _without_mask  # type: ignore[attr-defined]


def test_what_was_recomputed_is_seen_by_every_view_and_nothing_is_compiled() -> None:
    """Since 0.17 a C++ function does it; the copy in its place has no version of a tensor counted, either."""
    random = ModuleType("random")
    vars(random)["_get_share_storage"] = lambda: pytest.fail("compiles")
    platform._shared_storage({"tensor_parallel.random": random})
    kept = torch.arange(6.0).reshape(2, 3)
    view, version = kept.view(-1), kept._version
    kept.untyped_storage().resize_(0)
    random._get_share_storage()(kept, torch.arange(6.0, 12.0))
    assert torch.equal(view, torch.arange(6.0, 12.0))
    assert torch.equal(kept, torch.arange(6.0, 12.0).reshape(2, 3))
    assert kept._version == version


def test_a_release_that_copies_by_itself_is_left_alone() -> None:
    random = ModuleType("random")
    platform._shared_storage({"tensor_parallel.random": random})
    assert not hasattr(random, "_get_share_storage")


@pytest.mark.parametrize("name", ["mtp_model_layer", "transformer_layer"])
def test_the_layer_within_an_mtp_layer_goes_by_either_name(name: str) -> None:
    assert versions.mtp_block(SimpleNamespace(**{name: "its block"})) == "its block"


@pytest.mark.parametrize("name", ["mtp_model_layer", "transformer_layer"])
def test_its_parameters_go_by_either_name(name: str) -> None:
    model = _with_mtp()
    (held,) = holdings(f"mtp.layers.0.{name}.input_layernorm.weight", (model.hidden_size,), model, RANKS)
    assert held.parameter.name == f"model.layers.{model.num_hidden_layers}.input_layernorm.weight"


@pytest.mark.parametrize("name", ["decoder.layers.0.mtp_model_layer.input_layernorm.weight", "mtp.layers.0.mtp_model_layer.x"])
def test_the_name_means_nothing_elsewhere(name: str) -> None:
    model = _with_mtp()
    with pytest.raises(UnknownTensorError, match="no row of the mapping"):
        holdings(name, (model.hidden_size,), model, RANKS)


@pytest.mark.parametrize("layer", ["decoder.layers.0", "mtp.layers.0.mtp_model_layer"])
def test_a_norm_that_only_a_bug_makes_is_said_to_be_one(layer: str) -> None:
    """Since 0.19 a query without a latent gets a norm from Transformer Engine's layer, whatever the spec says."""
    with pytest.raises(UnknownTensorError, match=r"no row .*docs/findings/norm-of-the-uncompressed-query\.md$") as raised:
        holdings(f"{layer}.self_attention.linear_q_proj.layer_norm_weight", (64,), _with_mtp(), RANKS)
    assert (Path(__file__).parents[2] / str(raised.value).split()[-1]).is_file()


def _with_mtp() -> Model:
    return TINY.model.with_numbers({"num_nextn_predict_layers": "1"})


@pytest.mark.parametrize(
    ("told", "expected"), [("0.16.1", "0.16.1"), ("0.19.2+faf9ed9", "0.19.2"), ("0.20.0rc0+1", "0.20.0rc0")]
)
def test_a_release_is_told_without_the_commit_of_the_working_folder(told: str, expected: str) -> None:
    """From 0.18 on megatron-core asks git for the commit of the repository that it is started in."""
    assert versions.release(told) == expected
