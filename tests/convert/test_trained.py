"""What megatron-core saves while it trains comes back as a HuggingFace folder: the model, without the optimizer's states."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.convert import folders
from tests.convert.folders import WITHOUT_MTP
from tests.convert.trained_by_megatron import FORMS
from validation.cli import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder that the weights are from, and the one that holds a checkpoint for each form."""
    place = tmp_path_factory.mktemp("trained")
    hf = folders.write(place / "hf", WITHOUT_MTP, folders.weights(WITHOUT_MTP), num_nextn_predict_layers=0)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.convert.trained_by_megatron", str(hf), str(place), port, *FORMS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return hf, place


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_optimizer_states_is_left_aside(
    form: str, saved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chained optimizers of dense tensors and experts; the weights are those before, bit for bit."""
    hf, place = saved
    words = ["--load", str(place / form), "--hf-model-path", str(hf), "--save", str(tmp_path / "back"), "--jobs", "1"]
    assert main(["convert", "--to-hf", *words]) == 0
    assert "left aside: " in capsys.readouterr().out
    assert folders.same(folders.read(tmp_path / "back"), folders.weights(WITHOUT_MTP))
