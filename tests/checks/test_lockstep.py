"""Reference and candidate in lockstep, for real: the figures of a run at once, a fault where it is, a cut run that goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.checks.conftest import Output, outputs_of, warm
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import preset
from validation.reference.weights import save_weights

MODEL = replace(preset("tiny").model, num_hidden_layers=2, num_nextn_predict_layers=1)
NAMED = {"model_type": "deepseek_v3", "num_key_value_heads": MODEL.num_attention_heads, "swiglu_limit": 7.0}
ROPE = ("rope_type", "rope_theta", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "original_max_position_embeddings")
STREAMED = ["--set", "num_layers=2", "--set", "num_nextn_predict_layers=1", "--layouts", "single+stream", "--no-self-test"]
PLUGIN = """
from pathlib import Path

HERE = Path(__file__).parent


def built(case, model):
    if (HERE / "cut").exists() and len(list(HERE.glob("built-*"))) == 3:
        raise RuntimeError("cut here")
    (HERE / f"built-{len(list(HERE.glob('built-*')))}").touch()


def loaded(case, model):
    for layer in (layer for chunk in model for layer in chunk.decoder.layers):
        if (HERE / "wrong").exists() and layer.layer_number == 2:
            layer.mlp.shared_experts.linear_fc2.weight.data.mul_(1.125)
"""


@pytest.fixture(scope="module")
def runs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """A checkpoint in lockstep and at once: its weights are the same in both."""
    folder = tmp_path_factory.mktemp("checkpoint") / "small"
    folder.mkdir()
    numbers = MODEL.as_dict()
    rope = {name: numbers.pop(name) for name in ROPE} | {"factor": numbers.pop("rope_factor")}
    (folder / "config.json").write_text(json.dumps({**NAMED, **numbers, "rope_parameters": rope}))
    save_weights(Case("tiny", MODEL, Layout(), "fp32", "local", "gloo", 1, 2, 1, 24), folder / "model.safetensors")
    shared = ["--hf-model-path", str(folder), "--steps", "0", "--no-self-test", "--seq-length", "24", "--precision", "fp32"]
    commands = {name: [*shared, "--layouts", f"single+mtp{word}"] for name, word in (("lockstep", "+stream"), ("at once", ""))}
    return outputs_of(commands, cache, tmp_path_factory)


def figures(found: Output) -> Iterator[tuple[tuple[str, str], dict[str, float]]]:
    """Error and floor of every check that has any, by its component and title."""
    (path,) = found.results.glob("*.xml")
    for testcase in ElementTree.parse(path).iter("testcase"):
        said = {one.attrib["name"]: one.attrib["value"] for one in testcase.iter("property")}
        if "rel_error" in said:
            name = testcase.attrib["classname"].rpartition(".")[2], testcase.attrib["name"]
            yield name, {kind: float(said[kind]) for kind in ("rel_error", "floor") if kind in said}


def test_the_figures_are_those_of_a_run_at_once(runs: dict[str, Output]) -> None:
    """Error and floor of every check, MTP's among them, are equal to the bit, but for two kinds of gradients.

    The truth's of experts follow from a formula (1e-9), and an MTP layer's part of the embedding's is added after it was
    rounded by itself (1e-2).
    """
    assert [run.code for run in runs.values()] == [0, 0], runs["lockstep"].text[-2000:]
    assert all("Not compared: swiglu_limit of config.json, which neither" in run.text for run in runs.values())
    one, other = (dict(figures(runs[name])) for name in ("lockstep", "at once"))
    assert one.keys() == other.keys()
    assert len(one) > 150
    within = {name: 1e-2 if "Embedding" in name[1] else 1e-9 if " Experts " in name[1] else 0.0 for name in one}
    off = {name: (one[name], other[name]) for name, most in within.items() if not _equal(one[name], other[name], most)}
    assert not off, off


def _equal(one: dict[str, float], other: dict[str, float], most: float) -> bool:
    return one.keys() == other.keys() and all(abs(one[kind] - other[kind]) <= most * other[kind] for kind in one)


def lockstep(plugin: Path, cache: Path) -> Output:
    """A run whose ranks have the plugin."""
    results = plugin.parent / "results"
    done = warm(["run", *STREAMED, "--plugin", str(plugin), "--results", str(results)], cache)
    return Output(done.returncode, done.stdout + done.stderr, results)


def test_a_run_that_was_cut_goes_on_before_what_is_damaged(cache: Path, tmp_path: Path) -> None:
    """Behind the last whole step: every check passes, and nothing is left in the cache. A wrong layer fails where it is."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    (tmp_path / "cut").touch()
    cut = lockstep(plugin, cache)
    assert cut.code != 0, cut.text[-2000:]
    (left,) = (cache / "lockstep").iterdir()
    assert sorted(path.stem for path in left.glob("*.json")) == ["000-forward-0", "001-forward-1", "002-backward-2"]
    (tmp_path / "cut").unlink()
    damaged = left / "001-forward-1.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    found = lockstep(plugin, cache)
    assert found.code == 0, found.text[-2000:]
    (path,) = found.results.glob("*.xml")
    properties = {one.attrib["name"]: one.attrib["value"] for one in ElementTree.parse(path).getroot().iter("property")}
    assert properties["resumed"] == "1 of 5 steps"
    assert not list((cache / "lockstep").iterdir())
    (tmp_path / "wrong").touch()
    wrong = lockstep(plugin, cache)
    assert wrong.code == 1, wrong.text[-2000:]
    assert "First in single+mtp+stream: FAIL: Layer 1 Shared Expert Output - " in wrong.text, wrong.text[-2000:]
