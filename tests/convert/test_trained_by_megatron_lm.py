"""What Megatron-LM itself saves with `--ckpt-format torch` comes back: padded vocabulary, arguments, optimizer, random states.

`PYTHONPATH=FOLDER python -m pytest tests/convert/test_trained_by_megatron_lm.py` has the Megatron-LM in a folder save it: a
checkout, or what is in megatron-core's wheel since 0.17. `nox -s parity_other` runs it.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.convert import folders
from tests.convert.folders import WITHOUT_MTP
from tests.ports import free_port
from validation.cli import main

MODEL = replace(WITHOUT_MTP, vocab_size=129, num_hidden_layers=2)
"""129 tokens, which no tp divides; Megatron-LM makes 192 rows of them with one rank of tensor parallelism, 256 with two."""


def saved(place: Path, layout: str) -> tuple[Path, Path]:
    """The folder that the weights are from, and the checkpoint that two ranks of Megatron-LM have saved after a step."""
    hf = folders.write(place / "hf", MODEL, folders.weights(MODEL), num_nextn_predict_layers=0)
    port = str(free_port())
    command = [sys.executable, "-m", "tests.convert.trained_by_megatron_lm", str(hf), str(place / "core"), port, layout]
    started = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for rank in range(2)]
    said = [rank.communicate()[0].decode() for rank in started]
    assert [rank.returncode for rank in started] == [0, 0], "\n".join(text[-3000:] for text in said)
    return hf, place / "core"


@pytest.mark.parametrize(("layout", "rows"), [("tp2", 256), ("ep2", 192), ("pp2", 192)])
def test_what_megatron_lm_saves_comes_back(layout: str, rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights of the folder, bit for bit, and a line that says how many rows were padding."""
    if find_spec("megatron.training") is None:
        pytest.skip("this megatron-core has no megatron.training; PYTHONPATH=FOLDER with a checkout of Megatron-LM")
    hf, core = saved(tmp_path, layout)
    words = ["--load", str(core), "--hf-model-path", str(hf), "--save", str(tmp_path / "back"), "--jobs", "1"]
    assert main(["convert", "--to-hf", *words]) == 0
    told = capsys.readouterr().out
    assert f"embedding.word_embeddings.weight has {rows} rows and config.json 129 tokens: {rows - 129} rows of padding" in told
    assert " of optimizer and random state" in told
    assert folders.same(folders.read(tmp_path / "back"), folders.weights(MODEL))
