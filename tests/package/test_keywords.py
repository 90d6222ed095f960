"""The keywords of `plumbline.check` are the options of `plumbline run`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

import plumbline
from plumbline.options import Options, words
from validation.case.preset import PRESETS
from validation.run.command_line import add_grouped
from validation.run.options import parsed

ABOUT_OUTPUT = {"help", "format", "verbose", "quiet", "manifest"}
"""Options that say where a command's output goes."""
OTHER_NAMES = {"case-timeout", "pieces", "no-self-test"}


def test_every_option_is_a_keyword() -> None:
    """A new option of the command line is one here, or says why not."""
    parser = argparse.ArgumentParser()
    add_grouped(parser)
    named = {name.removeprefix("--") for action in parser._actions for name in action.option_strings if name.startswith("--")}
    keywords = {name.replace("_", "-") for name in Options.__annotations__} | {"layouts"}
    assert keywords == named - ABOUT_OUTPUT - OTHER_NAMES


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"layouts": "tp2"}, ["--layouts=tp2"]),
        ({"layouts": ["single", "tp2+distributed"]}, ["--layouts=single,tp2+distributed"]),
        ({"layouts": None, "precision": None}, []),
        ({"tp": 2, "seq_length": 32}, ["--tp=2", "--seq-length=32"]),
        ({"set": {"num_layers": 2, "rope_type": "yarn"}}, ["--set=num_layers=2", "--set=rope_type=yarn"]),
        (
            {
                "config": {
                    "ddp.overlap_grad_reduce": True,
                    "model.recompute_modules": ["mlp", "moe"],
                    "model.moe_z_loss_coeff": None,
                }
            },
            [
                "--config=ddp.overlap_grad_reduce=true",
                '--config=model.recompute_modules=["mlp", "moe"]',
                "--config=model.moe_z_loss_coeff=null",
            ],
        ),
        ({"recipe": Path("flags.txt"), "world_size": 8}, ["--recipe=flags.txt", "--world-size=8"]),
        ({"only": "--odd"}, ["--only=--odd"]),
        ({"only": ("a", "b*")}, ["--only=a", "--only=b*"]),
        ({"layers": [0, 1, 60]}, ["--layers=0,1,60"]),
        ({"layers": "0,1"}, ["--layers=0,1"]),
        ({"self_test": True}, ["--self-test"]),
        ({"self_test": False}, ["--no-self-test"]),
        ({"stream": False, "fresh": True}, ["--fresh"]),
        ({"hf_model_path": Path("a b")}, ["--hf-model-path=a b"]),
        ({"timeout": 1.5}, ["--timeout=1.5"]),
        ({"implementation": parsed}, ["--implementation=validation.run.options:parsed"]),
        ({"implementation": "my_spec:layers"}, ["--implementation=my_spec:layers"]),
    ],
)
def test_keywords_are_words(given: dict[str, Any], wanted: list[str]) -> None:
    assert words(given) == wanted


def test_settings_are_what_was_given() -> None:
    """Lists, texts and numbers arrive as they are."""
    given = {"model.recompute_granularity": "selective", "model.recompute_modules": ["mlp", "moe"], "optimizer.lr": 1e-05}
    training = parsed(words({"layouts": "single", "config": given})).cases[0].training
    assert training.effective("model")["recompute_modules"] == ("mlp", "moe")
    assert training.adam.learning_rate == 1e-05
    with pytest.raises(plumbline.UsageError, match="give True, False, None, a number, a text or a list"):
        words({"config": {"optimizer.lr": object()}})


def test_the_command_line_takes_them() -> None:
    settings = parsed(words({"layouts": ["single", "tp2"], "set": {"num_layers": 3}, "precision": "bf16", "jobs": 1}))
    assert [case.layout.name for case in settings.cases] == ["single", "tp2"]
    assert {case.model.num_hidden_layers for case in settings.cases} == {3}
    assert next(iter(PRESETS)) in {case.preset for case in settings.cases}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"presision": "bf16"}, "presision: no option; did you mean precision?"),
        ({"layout": "tp2"}, "layout: no option; did you mean layouts?"),
        ({"format": "json"}, "format: no option; there are "),
        ({"zzz": 1}, "zzz: no option; there are balancing, "),
        ({"self_test": 1}, "self_test is 1; give True or False"),
        ({"set": "num_layers=2"}, "set is 'num_layers=2'; give a dictionary, such as {'num_layers': 2}"),
        ({"tp": True}, "tp is True; give a text or a number"),
        ({"layouts": [None]}, "layouts is None; give a text or a number"),
        ({"results": ["a"]}, r"results is \['a'\]; give a text or a number"),
        ({"implementation": lambda config, vp_stage: None}, "'<lambda>'|<lambda> cannot be imported by the ranks"),
        ({"implementation": "".join}, "cannot be imported by the ranks"),
    ],
)
def test_a_wrong_word_is_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(plumbline.UsageError, match=sentence):
        plumbline.check(**given)


def test_a_function_of_a_notebook_is_none_that_the_ranks_know() -> None:
    def layers(config: Any, vp_stage: Any) -> None: ...

    layers.__module__ = "__main__"
    layers.__qualname__ = "layers"
    with pytest.raises(plumbline.UsageError, match=r"put it into a file, such as my_spec\.py"):
        plumbline.check(implementation=layers)
