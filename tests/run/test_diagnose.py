"""Runs that break for a reason which the user can do something about say what."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.case.test_preflight import case
from tests.checks.conftest import warm
from validation.case import disk
from validation.case.case import Case
from validation.case.errors import EnvironmentMissing, ExitCode
from validation.case.preset import MINI
from validation.run import diagnose
from validation.run.launch import Broken

ROOT = Path(__file__).parents[2]
NO_MEMORY = "rank 1 raised torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"


def on_gpu(implementation: str = "te", precision: str = "bf16") -> Case:
    return case(preset=MINI, transport="nccl", implementation=implementation, precision=precision)


SMALL = ("run", "-v", "--set", "num_layers=2", "--steps", "0")


def run(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A whole command of one small case, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "validation", *SMALL, "--results", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "CI": "", "PLUMBLINE_CACHE": str(tmp_path / "cache"), **variables},
        capture_output=True,
        text=True,
        timeout=1800,
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


@pytest.mark.parametrize(
    ("words", "help_"),
    [
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "another process has this GPU for itself"),
        ("CUDA error: uncorrectable ECC error encountered", "the kernel's log (`dmesg`) has an Xid"),
        ("CUDA error: unknown error", "reset it, or name another one in CUDA_VISIBLE_DEVICES"),
        ("CUDA error: device-side assert triggered", "CUDA_LAUNCH_BLOCKING=1 shows where"),
        ("CUDA error: an illegal memory access was encountered", "a kernel of the code under test failed"),
        (
            "Error 803: system has unsupported display driver / cuda driver combination. CUDA",
            "the driver does not fit this torch",
        ),
        ("CUDA error: no kernel image is available for execution on the device", "is not built for this GPU"),
    ],
)
def test_what_cuda_says_is_told_with_what_to_do(words: str, help_: str) -> None:
    """Its first line stays, the advice that torch appends does not; the exit code is the rank's."""
    broken = Broken(1, f"rank 1 raised torch.AcceleratorError: {words}\nCompile with `TORCH_USE_CUDA_DSA`", "stacks")
    found = diagnose.explained(on_gpu("local"), broken)
    assert found.sentence.startswith(f"rank 1 raised torch.AcceleratorError: {words.rstrip('.')}; ")
    assert help_ in found.sentence
    assert "TORCH_USE_CUDA_DSA" not in found.sentence
    assert (found.exit_code, found.stacks) == (broken.exit_code, "stacks")


def test_another_error_of_cuda_is_told_as_it_was() -> None:
    """Whatever torch appends to each."""
    words = "rank 1 raised torch.AcceleratorError: CUDA error: invalid argument"
    broken = Broken(1, f"{words}\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.", "")
    assert diagnose.explained(on_gpu("local"), broken) == broken


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


def test_a_rank_that_a_full_disk_kept_silent_says_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Plumbline finds full itself is told like what a library has said."""
    words = "the ranks could not be started: Ran out of input: no space is left in /scratch"
    monkeypatch.setattr(disk, "_free", lambda folder: 0)
    found = diagnose.explained(on_gpu("local"), Broken(None, words, "", ExitCode.ENVIRONMENT))
    assert found.sentence.startswith(f"{words}: what ranks leave while they run needs about ")
    assert found.sentence.endswith("make room there, or name another folder with TMPDIR")


def test_shared_memory_that_is_full_is_named() -> None:
    """NCCL keeps its buffers there, and a container has 64 MiB of it."""
    words = "rank 1 raised DistBackendError: creating shared memory segment /dev/shm/nccl-Qj: No space left on device (28)"
    found = diagnose.explained(on_gpu("local"), Broken(1, words, "", ExitCode.ENVIRONMENT))
    assert found.sentence == f"{words}; give /dev/shm more room (`docker run --ipc=host`, or --shm-size)"


def test_a_rank_without_memory_ends_a_command_with_4_and_the_remedies(tmp_path: Path) -> None:
    """A layer spec that raises in the rank what torch raises there on a GPU."""
    words = ["--implementation", "tests.run.breaking:out_of_memory", "--results", str(tmp_path)]
    ended = warm([*SMALL, *words], tmp_path / "cache")
    assert ended.returncode == ExitCode.INFRASTRUCTURE, ended.stdout
    said = " ".join(ended.stdout.split())
    assert "rank 0 raised torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB" in said
    assert "about this much is needed with --set num_hidden_layers=1" in said


BROKEN = {
    "its library is missing": ("raise OSError('libcudnn.so.9: cannot open shared object file')", ""),
    "its PyTorch part is missing": ("", "raise FileNotFoundError('Could not find shared object file')"),
    "built for another torch": ("", "raise ImportError('te.so: undefined symbol: _ZN3c105ErrorC2')"),
    "no driver": ("", "raise RuntimeError('CUDA driver version is insufficient')"),
    "ends the process": ("", "raise SystemExit(1)"),
    "too old": ("__version__ = '0.5'", "class Linear: pass"),
}


SAID = {
    "its PyTorch part is missing": "FileNotFoundError: Could not find",
    "too old": "ModuleNotFoundError: No module",
}
"""How the reason of some begins, as reports give it."""


def transformer_engine(folder: Path, kind: str) -> str:
    """The PYTHONPATH with a Transformer Engine that is broken in this way."""
    package = folder / kind.replace(" ", "-") / "transformer_engine"
    (package / "pytorch").mkdir(parents=True)
    for path, text in zip((package, package / "pytorch"), BROKEN[kind], strict=True):
        (path / "__init__.py").write_text(text, encoding="utf-8")
    return f"{package.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"


def test_a_transformer_engine_that_cannot_be_imported_is_taken_for_absent(tmp_path: Path) -> None:
    """A case that does not use it passes, and its file says so; megatron-core imports it wherever it is installed."""
    ended = run(tmp_path, PYTHONPATH=transformer_engine(tmp_path, "its PyTorch part is missing"))
    assert ended.returncode == ExitCode.PASS, ended.stdout + ended.stderr
    (results,) = tmp_path.glob("**/tiny-single-fp64-local-gloo.xml")
    taken = re.search(r'name="taken-for-absent" value="transformer_engine \((.*?)\)"', results.read_text())
    assert taken is not None
    assert taken[1].startswith(SAID["its PyTorch part is missing"])


_IMPORTS = """
import json, os, sys
import torch._dynamo  # most of what megatron-core imports of others, once for all
from validation.candidate import platform

told = {}
for kind, folder in json.loads(sys.argv[1]).items():
    read, write = os.pipe()
    if os.fork() == 0:
        sys.path[:0] = [folder]
        try:
            with platform.uncompiled(), platform.unused_kernels(), platform.broken_is_absent():
                from megatron.core import fp8_utils
                from megatron.core.transformer.moe import experts, token_dispatcher
            said = [platform.broken, fp8_utils.HAVE_TE]
        except BaseException as error:
            said = repr(error)
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    told[kind] = json.loads(os.read(read, 65536))
print(json.dumps(told))
"""


def test_whatever_a_transformer_engine_raises_it_is_absent(tmp_path: Path) -> None:
    """Every way in which its import can fail, each in a process as the fork server is; so is another optional package."""
    folders = {kind: transformer_engine(tmp_path, kind).partition(os.pathsep)[0] for kind in BROKEN}
    for name in ("apex", "deep_ep"):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "__init__.py").write_text(f"raise OSError('{name}.so: cannot open')", encoding="utf-8")
        folders[name] = str(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS, json.dumps(folders)], cwd=ROOT, capture_output=True, text=True, timeout=900, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    for kind, (broken, have_te) in told.items():
        assert list(broken) == ["transformer_engine" if kind in BROKEN else kind]
        assert next(iter(broken.values())).startswith(SAID.get(kind, ""))
        assert not have_te


def test_a_case_that_needs_it_ends_with_3_and_the_cause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rank says what megatron-core could not import."""
    core = importlib.import_module("tests.core")
    monkeypatch.setitem(core.platform.broken, "transformer_engine", "AttributeError: no Linear")
    monkeypatch.setenv("RANK", "0")
    worker = importlib.import_module("validation.run.worker")
    with pytest.raises(
        EnvironmentMissing, match=r"cannot use the Transformer Engine that is installed \(AttributeError: no Li"
    ):
        worker.rank(on_gpu("te").to_json(), str(tmp_path), str(tmp_path), 1.0, "")
    assert json.loads((tmp_path / "rank-0.error").read_text())["exit_code"] == ExitCode.ENVIRONMENT


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
    newer = "OSError: libtransformer_engine.so: undefined symbol: cublasLtGroupedMatrixLayoutInit_internal"
    monkeypatch.setattr(diagnose, "why_not_imported", lambda module: newer)
    assert "it was built for a newer CUDA than torch " in diagnose.explained(on_gpu("te"), broken).sentence
    monkeypatch.setattr(diagnose, "why_not_imported", lambda module: "ImportError: it is broken")
    blamed = diagnose.explained(on_gpu("local"), replace(broken, stacks="File transformer_engine/__init__.py"))
    assert "(ImportError: it is broken)" in blamed.sentence
