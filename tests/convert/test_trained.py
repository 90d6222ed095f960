"""What megatron-core saves while it trains comes back as a HuggingFace folder: the model, without the optimizer's states.

`PYTHONPATH=FOLDER python -m pytest tests/convert/test_trained.py` has the megatron-core in a folder save it.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader

from tests.convert import folders
from tests.convert.folders import WITHOUT_MTP
from tests.convert.trained_by_megatron import FORMS, SINGLETON, STACKED
from tests.ports import free_port
from validation.cli import main

ALIKE = replace(WITHOUT_MTP, num_hidden_layers=2, first_k_dense_replace=0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder that the weights are from, and the one that holds a checkpoint for each form."""
    place = tmp_path_factory.mktemp("trained")
    hf = folders.write(place / "hf", WITHOUT_MTP, folders.weights(WITHOUT_MTP), num_nextn_predict_layers=0)
    alike = folders.write(place / "alike", ALIKE, folders.weights(ALIKE), num_nextn_predict_layers=0)
    port = str(free_port())
    command = [sys.executable, "-m", "tests.convert.trained_by_megatron", str(hf), str(alike), str(place), port]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return hf, place


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_optimizer_states_is_left_aside(
    form: str, saved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chained optimizers of dense tensors and experts; the weights are those before, bit for bit.

    The model alone has nothing to be left aside, but for what 0.19 keeps among the tensors that others have in common.pt.
    """
    hf, place = saved
    if not (place / form).exists():
        why = place / f"{form}.txt"
        said = why.read_text(encoding="utf-8") if why.exists() else "not listed"
        pytest.skip(f"this megatron-core has no {form} here: {said}")
    assert back(place / form, hf, tmp_path / "back") == 0
    kept = any(name.startswith("common_state/") for name in FileSystemReader(place / form).read_metadata().state_dict_metadata)
    assert ("left aside: " in capsys.readouterr().out) is (form != SINGLETON or kept)
    assert folders.same(folders.read(tmp_path / "back"), folders.weights(WITHOUT_MTP))


def test_layers_that_share_a_tensor_come_back(
    saved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And none is left out without a word if config.json has fewer."""
    _, place = saved
    assert back(place / STACKED, place / "alike", tmp_path / "back") == 0
    assert folders.same(folders.read(tmp_path / "back"), folders.weights(ALIKE))
    fewer = folders.write(tmp_path / "fewer", replace(ALIKE, num_hidden_layers=1), {"a": torch.ones(1)}, shards=1)
    assert back(place / STACKED, fewer, tmp_path / "not") == 2
    assert "has shape (2, 64) and config.json needs (1, 64)" in capsys.readouterr().err


def back(place: Path, hf: Path, out: Path) -> int:
    """Convert to a HuggingFace folder; the exit code."""
    words = ["--load", str(place), "--hf-model-path", str(hf), "--save", str(out), "--jobs", "1"]
    return main(["convert", "--to-hf", *words])
