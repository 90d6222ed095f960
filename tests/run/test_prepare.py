"""What is missing is said before anything is started."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from validation import cuda
from validation.case import packages
from validation.case.errors import EnvironmentMissing, ExitCode, UsageError
from validation.case.preset import TINY
from validation.machine import ABSENT, Gpu, Unasked
from validation.run import ahead, launch, prepare
from validation.run.command_line import add_options
from validation.run.options import parsed, settings
from validation.run.references import REFERENCES


@pytest.mark.parametrize(("transport", "file"), [("gloo", "requirements/cpu.txt"), ("nccl", "requirements/cuda.txt")])
def test_missing_packages_are_named_with_what_brings_them(monkeypatch: pytest.MonkeyPatch, transport: str, file: str) -> None:
    monkeypatch.setattr(prepare, "version", lambda name: ABSENT if name in ("transformers", "junitparser") else "1.0")
    with pytest.raises(EnvironmentMissing, match=rf"^transformers, junitparser: not installed .*{file}"):
        prepare._find_packages(transport)


def test_nothing_missing_is_no_error() -> None:
    prepare._find_packages("gloo")


def test_a_package_that_a_setting_needs_is_named_before_ranks_start(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ddp.num_distributed_optimizer_instances"
    package = replace(
        packages.OF_SETTINGS[name], modules=("none_such",), name="none_such", brings="`pip install none_such` brings it"
    )
    monkeypatch.setattr(packages, "OF_SETTINGS", {name: package})
    cases = [parsed(["--layouts", f"dp4+distributed+{name}={instances}"]).cases for instances in (1, 2)]
    prepare._find_packages_of_settings(cases[0])
    said = rf"^dp4\+distributed\+{name}=2: {name}=2 needs none_such, which is not installed for .*`pip install none_such`"
    with pytest.raises(EnvironmentMissing, match=said):
        prepare._find_packages_of_settings(cases[1])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "model.gradient_accumulation_fusion",
            "=true needs fused_weight_gradient_mlp_cuda of APEX, which is not ",
        ),
        ("model.moe_token_dispatcher_type=flex", " needs deep_ep, which is not installed for "),
        (
            "model.attention_backend=flash",
            "=flash needs flash_attn, which is not .*attention_backend=auto takes ",
        ),
        ("model.attention_backend=fused", ""),
        ("model.moe_token_dispatcher_type=alltoall", ""),
        ("model.gradient_accumulation_fusion=false", ""),
    ],
)
def test_what_a_switch_imports_on_a_gpu_is_named_before_ranks_start(setting: str, said: str) -> None:
    words = ["--implementation", "te", "--precision", "bf16", "--transport", "nccl", "--layouts", f"ep2+{setting}"]
    cases = parsed(words).cases
    if not said:
        prepare._find_packages_of_settings(cases)
        return
    with pytest.raises(EnvironmentMissing, match=said):
        prepare._find_packages_of_settings(cases)


@pytest.mark.parametrize("section", ["model", "optimizer"])
def test_a_folder_that_a_setting_names_must_be_writable(section: str) -> None:
    wanted = parsed(["--layouts", "single", "--config", f"{section}.config_logger_dir=/proc/dumps"])
    with pytest.raises(UsageError, match=rf"^{section}\.config_logger_dir /proc/dumps: no file can be made in /proc "):
        prepare.prepare(wanted)


ONE = Gpu("NVIDIA H100 80GB HBM3", 80 << 30, 79 << 30)


@pytest.mark.parametrize(
    ("words", "facts", "said"),
    [
        pytest.param(
            ("--transport", "nccl", "--tp", "2"),
            {},
            "layout tp2 on nccl needs 2 GPUs and 1 was found; `--share-gpu 2` lets ranks share what is here",
            id="too few GPUs",
        ),
        pytest.param(
            ("--share-gpu", "2", "--tp", "2", "--preset", "mini"),
            {"free": 2 << 30},
            "of GPU memory (2.0 GiB for a rank, 2 ranks on a card) and 2.0 GiB are free; about this much is needed with",
            id="a card with too little memory",
        ),
        pytest.param(("--share-gpu", "2", "--tp", "2"), {"torchs": None}, "is a CPU build", id="a CPU build of torch"),
        pytest.param(
            ("--share-gpu", "2", "--tp", "2"),
            {"drivers": "12.4"},
            "runs CUDA up to 12.4 and torch",
            id="a driver too old",
        ),
        pytest.param(
            ("--share-gpu", "2", "--tp", "2", "--implementation", "te"),
            {},
            "Transformer Engine is not installed",
            id="no Transformer Engine",
        ),
        pytest.param(
            ("--transport", "nccl", "--preset", "mini", "--implementation", "te", "--precision", "bf16", "--fp8", "delayed"),
            {"capability": (8, 0)},
            "+fp8-delayed needs GPUs of compute capability 8.9",
            id="a card without fp8",
        ),
        pytest.param(
            ("--transport", "nccl"),
            {"nvml": Unasked("libnvidia-ml.so.1: file too short", there=False)},
            "NCCL finds GPUs through libnvidia-ml.so.1, which cannot be loaded here (libnvidia-ml.so.1: file too short)",
            id="a driver without NVML",
        ),
        pytest.param(
            ("--transport", "nccl", "--preset", "mini"),
            {"free": 2**30, "total": 80 * 2**30},
            "1.0 GiB are free; other processes have 79.0 GiB of the GPU, and `nvidia-smi` names them; end them, or else about",
            id="an occupied card",
        ),
    ],
)
def test_what_a_machine_with_a_gpu_lacks_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], facts: dict[str, Any], said: str
) -> None:
    """The GPU is made up: one card, whose memory, driver and torch are as the case says. The exit code is 3."""
    free = facts.get("free", ONE.free)
    card = replace(ONE, free=free, total=facts.get("total", free))
    monkeypatch.setattr(prepare, "visible_gpus", lambda: [card])
    monkeypatch.setattr(cuda, "torchs_cuda", lambda: facts.get("torchs", "13.0"))
    monkeypatch.setattr(cuda, "drivers_cuda", lambda: facts.get("drivers", "13.0"))
    monkeypatch.setattr(cuda, "compute_capability", lambda: facts.get("capability", (9, 0)))
    monkeypatch.setattr(cuda, "driver", lambda: "550.90.07")
    monkeypatch.setattr(cuda, "nvml", lambda: facts.get("nvml"))
    monkeypatch.setattr(cuda, "te_problem", lambda: "Transformer Engine is not installed")
    monkeypatch.setattr(launch, "warm_up", lambda: pytest.fail("it started the ranks' server"))
    parser = argparse.ArgumentParser()
    add_options(parser.add_argument)
    with pytest.raises(EnvironmentMissing, match=re.escape(said)) as raised:
        prepare.prepare(settings(parser.parse_args(words), ""))
    assert raised.value.exit_code == ExitCode.ENVIRONMENT


def test_a_folder_that_transformers_reads_otherwise_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    """Its reference would be another model than the one that transformers loads."""
    config = {"model_type": "deepseek_v3", **TINY.model.as_dict(), "head_dim": 16}
    del config["rope_type"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UsageError, match=r"head_dim in config\.json is 16, and qk_rope_head_dim 32; remove it"):
        prepare._verify(parsed(["--hf-model-path", str(tmp_path)]))


@pytest.mark.parametrize("life", ["step-resume-pp2-step", "step-save-step", "step-resume-step"])
def test_checkpoints_are_of_one_machine(life: str) -> None:
    """Every node says it before it waits for the others; on one machine, and for other lives, there is nothing to say."""
    where = ("--nnodes", "2", "--node-rank", "1", "--rdzv-endpoint", "127.0.0.1:29500")
    with pytest.raises(UsageError, match=r"nodes share none; run it on one machine, or leave (save|resume) out"):
        prepare.check_cases(parsed(("--layouts", f"tp2+{life}", *where)))
    prepare.check_cases(parsed(("--layouts", f"tp2+{life}")))
    prepare.check_cases(parsed(("--layouts", "tp2+step-evaluate-step", *where)))


@pytest.mark.parametrize(
    ("words", "begun"),
    [((), ["single"]), (("--layouts", "tp2,single"), ["tp2"]), (("--only", "Layer 1"), [])],
    ids=["all of it", "the first case's", "a selection, which may need less"],
)
def test_a_reference_is_begun_while_the_ranks_server_imports(
    words: tuple[str, ...], begun: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ended if the command is refused then."""
    done: list[str] = []
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(launch, "warm_up", lambda: None)
    monkeypatch.setattr(REFERENCES, "warm_up", lambda: None)
    monkeypatch.setattr(REFERENCES, "warm_up_with_ranks", lambda: False)
    monkeypatch.setattr(REFERENCES, "begin", lambda case, home, timeout: done.append(case.layout.name))
    monkeypatch.setattr(REFERENCES, "close", lambda: done.append("closed"))

    def asked(cases: object, timeout: float) -> tuple[int, str]:
        assert done == begun
        return ExitCode.USAGE, "they refuse each other"

    monkeypatch.setattr(ahead, "_asked", asked)
    with pytest.raises(UsageError, match="they refuse each other"):
        prepare.prepare(parsed([*words, "--results", str(tmp_path / "results")]))
    assert done == [*begun, "closed"]


def test_a_stored_reference_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a fresh one is asked for."""
    begun: list[bool] = []
    monkeypatch.setattr(REFERENCES, "begin", lambda case, home, timeout: begun.append(True))
    settings = parsed(["--layouts", "single,tp2", "--results", str(tmp_path)])
    prepare._begin(settings, [])
    assert begun == []
    prepare._begin(settings, settings.cases[1:])
    assert begun == [True]  # both have the same


@pytest.mark.parametrize(("transport", "given", "becomes"), [("staged", None, "1"), ("staged", "8", "8"), ("gloo", None, None)])
def test_ranks_on_a_gpu_start_no_pool_of_compilers(
    monkeypatch: pytest.MonkeyPatch, transport: str, given: str | None, becomes: str | None
) -> None:
    """Torch starts one in each rank that compiles, with a process for each core. Whoever asks for it has it."""
    monkeypatch.setattr(multiprocessing, "set_forkserver_preload", lambda modules: None)
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", given)
    launch.prepare(transport)
    assert os.environ.get("TORCHINDUCTOR_COMPILE_THREADS") == becomes
