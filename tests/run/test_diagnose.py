"""Runs that break for a reason which the user can do something about say what."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.case.test_preflight import case
from validation.case import disk
from validation.case.case import Case
from validation.case.errors import ExitCode
from validation.case.preset import MINI
from validation.run import diagnose
from validation.run.launch import Broken

ROOT = Path(__file__).parents[2]
NO_MEMORY = "rank 1 raised torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"


def on_gpu(implementation: str = "te", precision: str = "bf16") -> Case:
    return case(preset=MINI, transport="nccl", implementation=implementation, precision=precision)


def run(tmp_path: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A whole command of one small case."""
    command = [sys.executable, "-m", "validation", "run", "--set", "num_layers=2", "--steps", "0", "--results", str(tmp_path)]
    return subprocess.run(
        [*command, *words],
        cwd=ROOT,
        env={**os.environ, "CI": "", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        NO_MEMORY,
        "rank 0 raised torch.AcceleratorError: CUDA error: out of memory",
        "rank 0 raised RuntimeError('[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory')",
        "rank 0 raised RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate')",
    ],
)
def test_out_of_memory_says_what_to_reduce_and_stays_infrastructure(words: str) -> None:
    found = diagnose.explained(on_gpu("local"), Broken(1, words, "stacks"))
    assert found.exit_code == ExitCode.INFRASTRUCTURE
    assert found.stacks == "stacks"
    assert found.sentence.startswith(words.splitlines()[0].rstrip("."))
    assert "See documentation" not in found.sentence
    changes = ["--set num_hidden_layers=3 (", "--set hidden_size=512 (", "--seq-length 256 ("]
    for change in changes:
        assert change in found.sentence
    reference = diagnose.explained(on_gpu("local"), Broken(0, words, ""), in_ranks=False)
    for change in (*changes, "--batch-size 1 ("):
        assert change in reference.sentence
    assert "the estimate for the reference was" in reference.sentence


def test_a_full_disk_says_how_much_is_needed_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the reference in the cache, which nothing can be kept in; the words of safetensors stay."""
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path))
    words = "rank 0 raised SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)"
    broken = Broken(0, words, "", ExitCode.ENVIRONMENT)
    found = diagnose.explained(on_gpu("local"), broken, in_ranks=False)
    assert found.exit_code == ExitCode.ENVIRONMENT
    assert found.sentence.startswith(words)
    assert f" GiB are needed in {tmp_path}" in found.sentence
    monkeypatch.setattr(disk, "_free", lambda folder: 0)
    ranks = diagnose.explained(on_gpu("local"), broken)
    assert ranks.sentence.endswith("are free there; make room there, or name another folder with TMPDIR")


def test_shared_memory_that_is_full_is_named() -> None:
    """NCCL keeps its buffers there, and a container has 64 MiB of it."""
    words = "rank 1 raised DistBackendError: creating shared memory segment /dev/shm/nccl-Qj: No space left on device (28)"
    found = diagnose.explained(on_gpu("local"), Broken(1, words, "", ExitCode.ENVIRONMENT))
    assert found.sentence == f"{words}; give /dev/shm more room (`docker run --ipc=host`, or --shm-size)"


def test_a_rank_without_memory_ends_a_command_with_4_and_the_remedies(tmp_path: Path) -> None:
    """A layer spec that raises in the rank what torch raises there on a GPU."""
    ended = run(tmp_path, "--implementation", "tests.run.breaking:out_of_memory")
    assert ended.returncode == ExitCode.INFRASTRUCTURE, ended.stdout
    said = " ".join(ended.stdout.split())
    assert "rank 0 raised torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB" in said
    assert "about this much is needed with --set num_hidden_layers=1" in said


def test_a_transformer_engine_that_cannot_be_imported_ends_with_3_and_the_cause(tmp_path: Path) -> None:
    """megatron-core imports it wherever it is installed, whatever the case; not every failure is an ImportError."""
    package = tmp_path / "packages" / "transformer_engine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise OSError('libcudnn.so.9: cannot open shared object file')\n", encoding="utf-8")
    ended = run(tmp_path, PYTHONPATH=f"{package.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert ended.returncode == ExitCode.ENVIRONMENT, ended.stdout + ended.stderr
    said = " ".join(ended.stdout.split())
    assert "Transformer Engine is installed and cannot be imported (OSError: libcudnn.so.9: cannot open" in said


def test_an_attention_that_is_not_there_is_the_environment_s_fault() -> None:
    broken = Broken(0, "rank 0 raised ValueError: No dot product attention backend is available for the provided inputs.", "")
    found = diagnose.explained(on_gpu("te-flash"), broken)
    assert found.exit_code == ExitCode.ENVIRONMENT
    assert "te-unfused works everywhere" in found.sentence


def test_every_other_end_is_told_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformer Engine is asked only where it can be to blame, and blamed only where its import fails."""
    broken = Broken(0, "rank 0 raised ValueError('x')", "")
    assert diagnose.explained(on_gpu("local"), broken) == broken
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(diagnose, "why_not_imported", lambda module: None)
    assert diagnose.explained(on_gpu("te"), broken) == broken
    monkeypatch.setattr(diagnose, "why_not_imported", lambda module: "ImportError: it is broken")
    assert diagnose.explained(on_gpu("local"), broken) == broken
    blamed = diagnose.explained(on_gpu("local"), replace(broken, stacks="File transformer_engine/__init__.py"))
    assert "(ImportError: it is broken)" in blamed.sentence
