"""`python -m validation compare`: two checkpoints of any formats."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ci import junit
from tests.convert import folders
from tests.convert.folders import MODEL, MOONLIGHT
from tests.convert.test_round_trip import convert
from validation.case.parameters import parameters
from validation.cli import main

UP = "model.layers.2.mlp.experts.7.up_proj.weight"


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in each format, and as a folder in which one element is another."""
    place = tmp_path_factory.mktemp("forms")
    weights = folders.weights(MODEL)
    found = {"hf": folders.write(place / "hf", MODEL, weights)}
    found["torch_dist"] = convert(found["hf"], place / "torch_dist", "--layout", "tp2ep2")
    found["legacy"] = convert(
        found["hf"], place / "legacy", "--layout", "pp2", "--format", "legacy", "--implementation", "local"
    )
    weights[UP][3, 5] += 0.5
    found["other"] = folders.write(place / "other", MODEL, weights)
    return found


@pytest.mark.parametrize("pair", ["hf torch_dist", "torch_dist legacy", "legacy hf"])
def test_the_same_model_in_two_formats(pair: str, forms: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Every parameter is reported, and passes."""
    a, b = pair.split()
    assert main(["compare", str(forms[a]), str(forms[b]), "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    titles = re.findall(r"^PASS: (.+) - Max diff: 0\.000000, Avg diff: 0\.000000 \(\d+ elements equal\)$", said, re.MULTILINE)
    assert titles == [parameter.title for parameter in parameters(MODEL).values()]
    assert f"===== Overall result: PASS ({len(titles)} tensors" in said


@pytest.mark.parametrize("form", ["hf", "torch_dist", "legacy"])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_one_element(form: str, jobs: str, forms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its place in the whole tensor, by how much, and in the JUnit file."""
    words = ["compare", str(forms[form]), str(forms["other"]), "--results", str(tmp_path), "--jobs", jobs]
    assert main(words) == 1
    said = capsys.readouterr().out
    (line,) = re.findall(r"^FAIL: .+$", said, re.MULTILINE)
    assert line.startswith("FAIL: Layer 2 Experts Up Weight - Max diff: 0.5")
    assert line.endswith("worst at [7, 3, 5]")
    suite = junit.read(next(tmp_path.glob("*.xml")))
    assert [check.name for check in suite.checks if check.status == "fail"] == ["Layer 2 Experts Up Weight"]
    assert len(suite.checks) == len(parameters(MODEL))


def test_a_tensor_that_one_of_them_lacks(forms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Query latents in one, none in the other, and an MTP layer that may be left out."""
    other = folders.write(tmp_path / "moonlight", MOONLIGHT, folders.weights(MOONLIGHT))
    assert main(["compare", str(forms["hf"]), str(other), "--no-mtp", "--jobs", "1"]) == 1
    said = capsys.readouterr().out
    assert f"FAIL: Layer 0 Query Down Projection Weight - only {forms['hf']} has it" in said
    assert f"FAIL: Layer 0 Query Projection Weight - only {other} has it" in said
    assert "MTP" not in said


def test_another_shape(forms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told, not measured."""
    from dataclasses import replace

    model = replace(MODEL, vocab_size=130)
    other = folders.write(tmp_path / "larger", model, folders.weights(model))
    assert main(["compare", str(forms["hf"]), str(other), "--jobs", "1"]) == 1
    assert "FAIL: Embedding Weight - " in capsys.readouterr().out


def test_the_same_values_in_another_dtype(forms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are equal, and it is said what they are stored as."""
    wide = convert(forms["hf"], tmp_path / "wide", "--dtype", "fp32")
    assert main(["compare", str(forms["hf"]), str(wide), "--jobs", "1"]) == 0
    assert "(64 elements equal), stored as float32 and bfloat16" in capsys.readouterr().out


def test_no_checkpoint(forms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, which is not that of a difference."""
    assert main(["compare", str(forms["hf"]), str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
