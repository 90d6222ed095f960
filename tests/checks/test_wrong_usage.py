"""What cannot be run: said in one sentence, before anything starts, with the exit code that says whose turn it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.conftest import warm
from validation.machine import gpus

MISTAKES = {
    "preset": (["--preset", "huge"], "preset 'huge' is unknown; known are tiny, mini"),
    "layout": (["--layouts", "tpp2"], "layout 'tpp2' is not one"),
    "precision": (["--precision", "fp7"], "precision 'fp7' is unknown; known are"),
    "impossible degree": (["--layouts", "tp3"], "tp3 does not divide the 4 attention heads; tp1, tp2 and tp4 do"),
    "number": (["--set", "nonsense=1"], "--set nonsense=1: no such number"),
    "spec": (["--implementation", "no.such:thing"], "--implementation no.such:thing: no module no.such here"),
    "odd number": (["--set", "qk_rope_head_dim=7"], "qk_rope_head_dim is 7, and rotary positions turn pairs"),
    "seed": (["--seed", "99999999999999999999999"], "--seed 99999999999999999999999 does not fit in 64 bits"),
    "jobs": (["--jobs=-1"], "--jobs -1"),
    "an unset variable": (["--megatron-path", ""], "--megatron-path is empty: give it a value, or leave it out"),
}


@pytest.mark.parametrize(("words", "said"), MISTAKES.values(), ids=MISTAKES)
def test_wrong_usage_is_one_sentence(tmp_path: Path, words: list[str], said: str) -> None:
    """Exit code 2, one line on standard error, no traceback, nothing run and no file left."""
    done = warm(["run", *words, "--results", str(tmp_path / "results")], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


OTHERS = {
    "inspect": (["inspect", ""], "argument DIR: it is empty: give it a value"),
    "compare": (["compare", "", "b"], "argument A: it is empty: give it a value"),
    "doctor": (["doctor", "--megatron-path", ""], "argument --megatron-path: it is empty: give it a value"),
    "data": (["data", "--batch-size", "99999999999"], "error: 4799999999952 tokens take about 447034.8 GiB of memory and "),
}


@pytest.mark.parametrize(("words", "said"), OTHERS.values(), ids=OTHERS)
def test_so_it_is_with_other_commands(tmp_path: Path, words: list[str], said: str) -> None:
    """An empty path is not the working folder, and what does not fit into memory is not tried."""
    done = warm(words, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr.splitlines()[-1]


UNWRITABLE = {
    "run": ["run", "--results", "{}/file"],
    "manifest": ["run", "--manifest", "{}"],
    "a manifest below a file": ["run", "--manifest", "{}/file/m.json"],
    "faults": ["faults", "--only", "T01", "--results", "{}/file/below"],
    "compare": ["compare", "a", "b", "--results", "{}/file"],
    "convert": ["convert", "--hf-model-path", "a", "--save", "{}/file/below"],
}


@pytest.mark.parametrize("words", UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_cannot_be_written_is_said_first(tmp_path: Path, words: list[str]) -> None:
    """Not by each of many hundred checks, when all of it has been computed."""
    (tmp_path / "file").touch()
    done = warm([word.format(tmp_path) for word in words], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {words[-2]} {tmp_path}")
    assert " that can be written" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("words", [["run", "--tp", "2"], ["faults", "--only", "T01"]], ids=["run", "faults"])
def test_so_is_a_cache_that_cannot(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").touch()
    done = warm([*words, "--results", str(tmp_path / "results")], tmp_path / "file")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: the cache, $PLUMBLINE_CACHE: {tmp_path / 'file'}: no file can be made in ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(gpus() > 0, reason="this machine has a GPU")
def test_a_missing_gpu_is_no_wrong_usage(tmp_path: Path) -> None:
    """Exit code 3: the command is right and the machine is not; what would work is said."""
    done = warm(["run", "--transport", "nccl", "--results", str(tmp_path / "results")], tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: layout single on nccl needs 1 GPU and no GPU was found")
    assert "--transport gloo" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["walk"], ["run", "--colour", "red"], ["run", "--tp", "two"], []], ids=str)
def test_a_word_that_is_no_option_is_wrong_usage(tmp_path: Path, words: list[str]) -> None:
    """Argparse's own refusals have the same exit code."""
    done = warm(words, tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
