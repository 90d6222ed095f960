"""What is wrong is said in one sentence with its exit code, and nothing is left that could be taken for a checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.convert import folders
from tests.convert.folders import MODEL
from tests.convert.test_round_trip import back, convert
from validation.cli import main
from validation.convert import unfinished

DOWN = "model.layers.0.mlp.down_proj.weight"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    return folders.write(tmp_path / "hf", MODEL, folders.weights(MODEL))


def config(folder: Path, **changed: object) -> None:
    found = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**found, **changed}))


def rewrite(folder: Path, change: Callable[[folders.Tensors], object]) -> None:
    """Changes the tensors of the file that holds DOWN."""
    path = next(folder / name for name in SHARDS if DOWN in load_file(folder / name))
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def absent_key(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.layers.0.made_up.weight"] = SHARDS[0]
    (folder / INDEX).write_text(json.dumps(index))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def unknown_key(folder: Path) -> None:
    rewrite(folder, lambda found: found.update({"model.layers.0.self_attn.rotary.weight": torch.ones(3)}))


def remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (lambda folder: (folder / SHARDS[1]).unlink(), f"names {SHARDS[1]}, which is not there"),
    "missing shard without an index": (
        lambda folder: remove(folder, SHARDS[1], "model.safetensors.index.json"),
        f"{SHARDS[1]} is not there, by the names of the other files",
    ),
    "truncated shard": (lambda folder: truncate(folder / SHARDS[0]), "not a whole safetensors file"),
    "absent key": (absent_key, f"says that model.layers.0.made_up.weight is in {SHARDS[0]}, which does not hold it"),
    "unexpected dtype": (lambda folder: rewrite(folder, lambda t: t.update({DOWN: t[DOWN].int()})), f"{DOWN} is I32 without"),
    "wrong shape": (lambda folder: rewrite(folder, lambda t: t.update({DOWN: t[DOWN][:-1]})), f"{DOWN} has shape (63, 96)"),
    "no such tensor": (lambda folder: rewrite(folder, lambda t: t.pop(DOWN)), f"says that {DOWN} is in"),
    "unknown tensor": (unknown_key, "model.layers.0.self_attn.rotary.weight has no place in the model"),
    "unknown architecture": (
        lambda folder: config(folder, model_type="llama"),
        "Llama (model_type 'llama') is not compared",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "number of experts": (lambda folder: config(folder, n_routed_experts=17), "mlp.experts.16.gate_proj.weight is missing"),
    "a kind for gate and one for up": (
        lambda folder: rewrite(folder, lambda t: t.update({DOWN.replace("down", "gate"): torch.ones(96, 64)})),
        "are one tensor in Megatron and stored as bfloat16 and float32",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_folder(name: str, origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before anything is written."""
    change, sentence = WRONG[name]
    change(origin)
    assert main(["convert", "--hf-model-path", str(origin), "--save", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1
    assert not list(tmp_path.glob("out*"))


HERE = ["--hf-model-path", "{}/hf"]
OUT = [*HERE, "--save", "{}/out"]
USAGE = {
    "nothing to convert": (["--save", "{}/out"], "give --hf-model-path"),
    "the way back from nowhere": (["--to-hf", "--save", "{}/out"], "--to-hf needs --load"),
    "no such folder": (["--hf-model-path", "{}/nowhere", "--save", "{}/out"], "no such folder"),
    "an empty list of layers": ([*OUT, "--layers", ""], "--layers is empty"),
    "only commas": ([*OUT, "--layers", ","], "--layers ,: give layer numbers"),
    "no number of jobs": ([*OUT, "--jobs", "0"], "--jobs 0"),
    "a layout that does not divide": (
        [*OUT, "--layout", "tp3"],
        "tp3 does not divide",
    ),
    "stages that do not divide": (
        [*OUT, "--layout", "pp3"],
        "do not divide the 4 layers",
    ),
    "experts that do not divide": ([*OUT, "--layout", "ep3"], "ep3 does not divide"),
    "files that have one name": (
        [*OUT, "--layout", "etp2", "--format", "legacy"],
        "choose --format torch_dist",
    ),
    "options of a step": (
        [*OUT, "--layout", "tp2+full"],
        "by degrees and stages alone",
    ),
    "layers that are not there": ([*OUT, "--layers", "0,9"], "from 0 to 3"),
    "output in the input": ([*HERE, "--save", "{}/hf/out"], "lie in each other"),
    "input in the output": ([*HERE, "--save", "{}"], "lie in each other"),
    "output that exists": ([*HERE, "--save", "{}/there"], "exists already"),
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage(name: str, origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What would work is said with it."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "kept").write_text("kept")
    words, sentence = USAGE[name]
    assert main(["convert", *(word.format(tmp_path) for word in words)]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
    assert (tmp_path / "there" / "kept").read_text() == "kept"


def torch_dist_file(folder: Path) -> Path:
    return next((folder / "release").glob("__0_*.distcp"))


def of_training(folder: Path, damage: Callable[[Path], object]) -> None:
    """A checkpoint without a manifest, which would tell."""
    (folder / "plumbline.json").unlink()
    damage(folder / "release")


def not_to_its_end(folder: Path) -> None:
    """As a job leaves it that is killed while it saves."""
    for file in (folder / "release").glob("*.distcp"):
        shutil.move(file, folder)
    without_tracker(folder)
    shutil.rmtree(folder / "iter_0000010")


def without_tracker(folder: Path) -> None:
    """Copied without the file that names the latest step."""
    for name in ("plumbline.json", "config.json", "latest_checkpointed_iteration.txt"):
        (folder / name).unlink()
    (folder / "release").rename(folder / "iter_0000010")


DAMAGED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a file is missing": ("torch_dist", lambda folder: torch_dist_file(folder).unlink(), "__0_0.distcp is not there"),
    "a file is cut off": ("torch_dist", lambda folder: truncate(torch_dist_file(folder)), "__0_0.distcp has "),
    "the metadata is missing": (
        "torch_dist",
        lambda folder: (folder / "release/.metadata").unlink(),
        ".metadata is not there",
    ),
    "the metadata is garbage": (
        "torch_dist",
        lambda folder: of_training(folder, lambda place: (place / ".metadata").write_bytes(b"garbage")),
        ".metadata cannot be read",
    ),
    "a checkpoint that was not written to its end": (
        "torch_dist",
        not_to_its_end,
        "has .distcp files and no .metadata, which is written last",
    ),
    "no tracker": ("torch_dist", without_tracker, "iter_0000010 itself"),
    "a rank's file is missing": (
        "legacy",
        lambda folder: of_training(folder, lambda place: (place / "mp_rank_01/model_optim_rng.pt").unlink()),
        "mp_rank_01/model_optim_rng.pt: is missing",
    ),
    "a rank's file is cut off": (
        "legacy",
        lambda folder: of_training(folder, lambda place: truncate(place / "mp_rank_01/model_optim_rng.pt")),
        "the file is damaged",
    ),
    "a config of another model": ("legacy", lambda folder: config(folder, kv_lora_rank=24), "config.json needs"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint(name: str, origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The way back begins with what can be seen to be wrong."""
    format_, damage, sentence = DAMAGED[name]
    there = convert(origin, tmp_path / "mcore", "--format", format_, "--layout", "tp2")
    damage(there)
    assert main(["convert", "--to-hf", "--load", str(there), "--save", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_values_that_fp16_has_no_room_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """bf16 has the range of fp32, fp16 does not; infinity in place of a weight is no cast."""
    weights = folders.weights(MODEL)
    weights[DOWN][0, 0] = 1e6
    origin = folders.write(tmp_path / "hf", MODEL, weights)
    words = ["convert", "--hf-model-path", str(origin), "--save", str(tmp_path / "out"), "--dtype", "fp16", "--jobs", "1"]
    assert main(words) == 2
    assert f"{DOWN} holds values above what fp16 can" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB, half of what the folder needs."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("format_", ["torch_dist", "legacy"])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_disk_that_is_full(
    format_: str, jobs: str, origin: Path, small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before it begins; and where others fill the disk meanwhile, when it is full."""
    words = ["convert", "--hf-model-path", str(origin), "--save", str(small_disk / "out"), "--format", format_, "--jobs", jobs]
    assert main(words) == 3
    assert "are needed and 0.0 GiB are free there" in capsys.readouterr().err
    monkeypatch.setattr("validation.convert.convert.check_room", lambda folder, needed: None)
    assert main(words) == 3
    assert "No space left on device; nothing was left under the output's name" in capsys.readouterr().err
    assert not (small_disk / "out").exists()
    assert not list(small_disk.rglob("*.part"))


def test_two_at_a_time(
    origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is told of the first, and leaves its files alone."""
    monkeypatch.setattr(unfinished, "PATIENCE", 0.0)
    with unfinished.Unfinished(tmp_path / "out", {}):
        assert main(["convert", "--hf-model-path", str(origin), "--save", str(tmp_path / "out")]) == 2
    assert "another conversion is writing it" in capsys.readouterr().err


def test_an_empty_folder_may_be_filled(origin: Path, tmp_path: Path) -> None:
    """There is nothing in it to lose."""
    (tmp_path / "out").mkdir()
    assert folders.same(folders.read(back(convert(origin, tmp_path / "out"), tmp_path / "back")), folders.read(origin))


def test_layers_of_a_megatron_checkpoint(origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are chosen from the folder that it came from."""
    there = convert(origin, tmp_path / "mcore")
    assert main(["convert", "--to-hf", "--load", str(there), "--save", str(tmp_path / "out"), "--layers", "0"]) == 2
    assert "--layers takes layers of a HuggingFace folder" in capsys.readouterr().err
    assert main(["convert", "--hf-model-path", str(there), "--save", str(tmp_path / "out")]) == 2
    assert "--to-hf --load converts it back" in capsys.readouterr().err


def test_the_model_is_not_the_checkpoint_s(origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder named for its config.json must be of the same model."""
    there = convert(origin, tmp_path / "mcore")
    larger = replace(MODEL, num_hidden_layers=5)
    other = folders.write(tmp_path / "other", larger, folders.weights(larger))
    words = ["convert", "--to-hf", "--load", str(there), "--save", str(tmp_path / "out"), "--hf-model-path", str(other)]
    assert main(words) == 2
    assert "is missing" in capsys.readouterr().err


def test_a_rank_s_file_of_the_format_before_torch_1_6(origin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing says where in it a tensor is."""
    there = convert(origin, tmp_path / "mcore", "--format", "legacy")
    (there / "plumbline.json").unlink()
    path = there / "release/mp_rank_00/model_optim_rng.pt"
    torch.save(torch.load(path, weights_only=False), path, _use_new_zipfile_serialization=False)
    assert main(["convert", "--to-hf", "--load", str(there), "--save", str(tmp_path / "out")]) == 2
    assert "before torch 1.6; load and save it again" in capsys.readouterr().err
