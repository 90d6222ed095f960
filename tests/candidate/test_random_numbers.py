"""What a case's settings ask for outside of megatron-core's configuration: its random numbers, and variables."""

from __future__ import annotations

import os

import pytest
import torch

from tests import core  # noqa: F401 - before megatron-core
from validation.candidate import build, variables
from validation.candidate.build import random_numbers
from validation.case.case import Case
from validation.run.options import parsed


def case(*settings: str, implementation: str = "te") -> Case:
    given = [word for setting in settings for word in ("--config", setting)]
    machine = ["--implementation", implementation, "--transport", "staged"]
    return parsed(["--layouts", "single", "--precision", "bf16", *machine, *given]).cases[0]


@pytest.mark.parametrize(
    ("settings", "te", "recordable"),
    [
        ([], False, False),
        (["model.cuda_graph_impl=none"], False, False),
        (["model.cuda_graph_impl=local"], False, True),
        (["model.cuda_graph_impl=transformer_engine", "model.use_te_rng_tracker=true"], True, True),
        (["model.enable_cuda_graph=true"], False, True),
        (["model.external_cuda_graph=true"], True, True),
    ],
)
def test_cuda_graphs_get_random_numbers_that_they_can_record(settings: list[str], te: bool, recordable: bool) -> None:
    assert random_numbers(case(*settings)) == {"use_te_rng_tracker": te, "use_cudagraphable_rng": recordable}


@pytest.mark.parametrize(("gpu", "seeded"), [(False, []), (True, ["megatron-core", "torch"])])
def test_the_cpus_numbers_begin_as_torch_has_them(gpu: bool, seeded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """All devices get the seed where there is a GPU. Where there is none, nothing is kept for one."""
    wanted, done, before = case(), list[str](), torch.get_rng_state()
    torch.manual_seed(wanted.seed)
    expected, kept = torch.get_rng_state(), len(torch.cuda._queued_calls)
    torch.default_generator.manual_seed(wanted.seed + 1)
    monkeypatch.setattr(build, "initialize_rng_tracker", lambda **given: None)
    monkeypatch.setattr(build, "model_parallel_cuda_manual_seed", lambda seed: done.append("megatron-core"))

    def seed(number: int) -> None:
        done.append("torch")
        torch.default_generator.manual_seed(number)

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: gpu)
        patch.setattr(torch, "manual_seed", seed)
        build.start_random_numbers(wanted)
    assert (done, len(torch.cuda._queued_calls)) == (seeded, kept)
    assert torch.equal(torch.get_rng_state(), expected)
    torch.set_rng_state(before)


def test_transformer_engine_is_told_what_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """In variables, and in no others; nothing is taken from a user who has not set the field."""
    monkeypatch.setenv("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "1")
    monkeypatch.delenv("NVTE_APPLY_QK_LAYER_SCALING", raising=False)
    for plain in (
        case(),
        case("model.deterministic_mode=false"),
        case("model.deterministic_mode=true", implementation="local"),
    ):
        assert variables.wanted(plain) == {}
    before = dict(os.environ)
    variables.settle(case("model.apply_query_key_layer_scaling=true"))
    assert dict(os.environ) == {**before, "NVTE_APPLY_QK_LAYER_SCALING": "1"}
    variables.settle(case("model.deterministic_mode=true"))
    assert os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] == "0"
