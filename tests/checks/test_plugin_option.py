"""`--plugin` as a user gives it: it runs in every rank, and nothing that comes of it is taken for a sound run's."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.checks.conftest import ROOT, Output, warm

PLUGIN = """
from megatron.core import parallel_state
from megatron.core.transformer.moe import router
from validation.run.plugin import Elsewhere


class Unused(router.TopKRouter):
    def routing(self, *given, **more):
        return None


router.TopKRouter = Unused

class Doubled:
    def __init__(self, layer):
        self.layer = int(layer)

    def loaded(self, case, model):
        found = next(layer for layer in model[0].decoder.layers if layer.layer_number == self.layer + 1)
        found.input_layernorm.weight.data *= 2


class Raises:
    def built(self, case, model):
        assert parallel_state.get_tensor_model_parallel_rank() == 0, "on rank 1"


class Nowhere:
    def built(self, case, model):
        raise Elsewhere("layer 7")


def plugin(argument):
    if argument == "nowhere":
        return Nowhere()
    return Raises() if argument == "raise" else Doubled(argument)
"""
SHARED = ("run", "-v", "--layouts", "tp2", "--set", "num_layers=2", "--steps", "0")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """By a path that is relative to where the command runs."""
    file = tmp_path_factory.mktemp("plugin") / "doubled.py"
    file.write_text(PLUGIN)
    return os.path.relpath(file, ROOT)


@pytest.fixture(scope="module")
def doubled(plugin: str, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    """A model that a plugin has changed on every rank."""
    results = tmp_path_factory.mktemp("results")
    done = warm([*SHARED, "--plugin", f"{plugin}:1", "--results", str(results)], cache)
    assert done.stderr == ""
    return Output(done.returncode, done.stdout, results)


def properties(found: Output) -> dict[str | None, str | None]:
    suite = found.suite("tiny-tp2-fp64-local-gloo")
    return {item.get("name"): item.get("value") for item in suite.findall("properties/property")}


def test_it_runs_in_every_rank_with_its_argument(doubled: Output) -> None:
    """Layer 1's norm, on both ranks; on one rank, too, which the same plugin changes: it is the model's."""
    assert doubled.code == 1
    first = next(line for line in doubled.text.splitlines() if line.startswith("First in tp2: "))
    assert re.search(r"FAIL: Layer 1 Input Norm Output - .*; scaled by 2; .*rank 0 .*rank 1 .*; modelling: off by ", first)


def test_the_report_and_the_file_say_so(doubled: Output, plugin: str) -> None:
    assert f"Plugin: {plugin}:1 runs in every rank; a gate takes no results of such a run" in doubled.text
    assert properties(doubled)["plugin"] == f"{plugin}:1"


def test_what_it_replaces_and_nothing_calls_is_named(doubled: Output) -> None:
    """A router in its own module: the module of the layer imported the original before."""
    said = "megatron.core.transformer.moe.router.TopKRouter (megatron.core.transformer.moe.moe_layer still has the original)"
    assert f"\nNot exercised in tp2: no rank calls what the plugin replaces: {said}\n" in doubled.text
    assert properties(doubled)["plugin_not_called"] == said


def test_the_reproduction_has_it(doubled: Output, plugin: str) -> None:
    """On one rank, where the plugin does the same."""
    line = next(line for line in doubled.text.splitlines() if line.startswith("Reproduce: "))
    assert f" --layouts single --steps 0 --plugin {plugin}:1 --only " in line


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("raise", r"rank 1 raised .*PluginBroke: plugin .*doubled\.py:raise: its built raised AssertionError\('on rank 1'\)"),
        (
            "nowhere",
            r"plugin .*doubled\.py:nowhere did nothing in tp2: its built says in every rank .* another stage \(layer 7\); ",
        ),
    ],
)
def test_one_that_raises_in_a_rank_or_does_nothing_in_any_is_named(
    argument: str, said: str, plugin: str, tmp_path: Path, cache: Path
) -> None:
    """Whatever it raised; it is no broken machine, which might be tried again."""
    done = warm([*SHARED, "--plugin", f"{plugin}:{argument}", "--results", str(tmp_path)], cache)
    assert done.returncode == 2
    assert re.search(said, done.stdout)


def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path, cache: Path) -> None:
    done = warm([*SHARED, "--plugin", "no_such.py", "--results", str(tmp_path)], cache)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --plugin no_such.py: no_such.py cannot be read (No such file or directory)")


def test_a_second_one_does_not_take_its_place_unseen(cache: Path) -> None:
    done = warm([*SHARED, "--plugin", "one.py", "--plugin", "two.py"], cache)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --plugin is given twice; give it once")


def test_without_one_nothing_is_said(sound: Output) -> None:
    assert "lugin" not in sound.text
    assert "plugin" not in properties(sound)
