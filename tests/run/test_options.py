"""From options to cases: what is asked for is what is run, and every mistake is one sentence that says what to write."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from validation.case.case import Case
from validation.case.errors import ExitCode, UsageError
from validation.case.layout import Layout
from validation.case.preset import MINI, TINY
from validation.run.command_line import add_options
from validation.run.options import Settings, settings

CONFIG = {
    "model_type": "deepseek_v3",
    **{name: value for name, value in TINY.model.as_dict().items() if not name.startswith(("rope", "beta", "mscale"))},
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
}


def asked(*words: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_options(parser.add_argument)
    return settings(parser.parse_args(words), "the command")


def layouts(*words: str) -> list[str]:
    return [case.layout.name for case in asked(*words).cases]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder whose config.json is a small DeepSeek-V3's; the weights are not looked at here."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_nothing_asked_for_is_the_smallest_case_on_the_cpu() -> None:
    """tiny, one rank, everything in fp64."""
    (case,) = asked().cases
    assert case.name == "tiny-single-fp64-local-gloo"
    assert case.model == TINY.model
    assert (case.batch_size, case.micro_batch_size, case.seq_length) == (4, 2, 48)


def test_layouts_keep_their_order() -> None:
    """The reference is shared, and the user reads them in the order in which they were written."""
    assert layouts("--layouts", "tp2, single,pp2vpp2,") == ["tp2", "single", "pp2vpp2"]


def test_words_after_a_layout_are_options_of_its_step() -> None:
    """Each layout has its own; what is given as an option holds for all."""
    first, second = asked("--layouts", "tp2,pp2+1-3+distributed+full", "--loss", "mean").cases
    assert (first.training.loss, first.training.optimizer, first.training.stages) == ("mean", "plain", ())
    assert (second.training.loss, second.training.optimizer, second.training.recompute) == ("mean", "distributed", "full")
    assert second.training.stages == (1, 3)
    assert first.name == "tiny-tp2+mean-fp64-local-gloo"
    assert second.name == "tiny-pp2+distributed+mean+full+1-3-fp64-local-gloo"


def test_a_word_that_is_no_option_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\+quick is unknown; after a layout may stand \+distributed, "):
        asked("--layouts", "tp2+quick")


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ((), 2),
        (("--steps", "1"), 1),
        (("--steps", "0"), 0),
        (("--precision", "fp32"), 0),
        (("--preset", "mini"), 0),
        (("--preset", "mini", "--steps", "2"), 2),
    ],
)
def test_steps_are_compared_where_they_are_cheap_and_exact(words: tuple[str, ...], steps: int) -> None:
    (case,) = asked(*words).cases
    assert case.training.steps == steps


def test_an_interleaved_pipeline_gets_four_micro_batches() -> None:
    """With fewer than four a wrong schedule is invisible."""
    plain, interleaved = asked("--layouts", "pp2,pp2vpp2").cases
    assert (plain.micro_batches, interleaved.micro_batches) == (2, 4)


def test_a_data_parallel_rank_gets_two_micro_batches() -> None:
    """Of a single one it cannot be seen whether gradients are added up."""
    assert [case.micro_batches for case in asked("--layouts", "dp2,ep2,pp2ep2,cp2dp2,tp2ep2dp2").cases] == [2] * 5


def test_a_case_survives_the_way_to_the_ranks() -> None:
    (case,) = asked("--layouts", "pp2+1-3+distributed", "--seed", "3").cases
    assert Case.from_json(case.to_json()) == case


def test_degrees_are_a_layout() -> None:
    """`--tp 2 --pp 2` is tp2pp2; a degree of 1 is none."""
    assert layouts("--tp", "2", "--pp", "2", "--ep", "1") == ["tp2pp2"]
    assert layouts("--ep", "2", "--etp", "2") == ["ep2etp2"]
    assert layouts("--tp", "1") == ["single"]


def test_precision_follows_the_machine_unless_asked_for() -> None:
    """fp64 where it costs nothing, fp32 on GPUs."""
    assert asked().cases[0].precision == "fp64"
    assert asked("--transport", "nccl").cases[0].precision == "fp32"
    assert asked("--transport", "nccl", "--precision", "fp64").cases[0].precision == "fp64"


@pytest.mark.parametrize(
    ("words", "transport"),
    [
        ((), "gloo"),
        (("--share-gpu", "2"), "staged"),
        (("--transport", "nccl", "--share-gpu", "2"), "staged"),
        (("--transport", "nccl", "--share-gpu", "1"), "nccl"),
        (("--transport", "staged"), "staged"),
        (("--transport", "staged-cpu"), "staged-cpu"),
    ],
)
def test_ranks_that_share_gpus_talk_over_staged(words: tuple[str, ...], transport: str) -> None:
    """Also behind the words of a GPU session, which say nccl; fp32 as on every GPU."""
    (of,) = asked(*words).cases
    assert of.transport == transport
    assert of.precision == ("fp32" if transport in ("nccl", "staged") else "fp64")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--transport", "gloo", "--share-gpu", "2"), "--share-gpu is for GPUs and --transport gloo runs on the CPU"),
        (("--share-gpu", "0"), "--share-gpu 0: give 1 or more"),
    ],
)
def test_sharing_what_is_not_there_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        asked(*words)


def test_numbers_are_set_in_the_words_of_either_side() -> None:
    """HuggingFace's or Megatron's: the same number, of its own kind."""
    ours = asked("--set", "num_hidden_layers=2", "--set", "rope_theta=500", "--set", "q_lora_rank=none").cases[0].model
    theirs = asked("--set", "num_layers=2", "--set", "rotary_base=500", "--set", "q_lora_rank=none").cases[0].model
    assert ours == theirs == replace(TINY.model, num_hidden_layers=2, rope_theta=500.0, q_lora_rank=None)
    assert asked("--set", "tie_word_embeddings=True").cases[0].model.tie_word_embeddings is True


def test_a_layout_may_ask_for_an_mtp_layer() -> None:
    """Its case's model has one, the others' have not, and other words stand beside it."""
    cases = asked("--layouts", "single,pp2+mtp,tp2+mtp+distributed").cases
    assert [case.model.num_nextn_predict_layers for case in cases] == [0, 1, 1]
    assert [case.arrangement for case in cases] == ["single", "pp2+mtp", "tp2+mtp+distributed"]
    assert cases[1].model == replace(TINY.model, num_nextn_predict_layers=1)


def test_an_mtp_layer_of_a_checkpoint_is_compared_where_it_is_asked_for(checkpoint: Path) -> None:
    """config.json says that there is one; it is set aside unless the layout says +mtp."""
    (checkpoint / "config.json").write_text(json.dumps({**CONFIG, "num_nextn_predict_layers": 1}))
    cases = asked("--hf-model-path", str(checkpoint), "--layouts", "single,single+mtp").cases
    assert [case.model.num_nextn_predict_layers for case in cases] == [0, 1]


def test_a_preset_brings_its_batch() -> None:
    """Mini has its own sizes, each of which may be given instead."""
    case = asked("--preset", "mini").cases[0]
    assert replace(MINI, batch_size=case.batch_size, micro_batch_size=case.micro_batch_size, seq_length=case.seq_length) == MINI
    case = asked("--preset", "mini", "--batch-size", "8", "--micro-batch-size", "4", "--seq-length", "128").cases[0]
    assert (case.batch_size, case.micro_batch_size, case.seq_length) == (8, 4, 128)


@pytest.mark.parametrize(
    ("words", "size"), [((), 2), (("--dp", "4"), 1), (("--batch-size", "5"), 1), (("--dp", "2", "--batch-size", "8"), 2)]
)
def test_micro_batches_fit_the_batch_of_a_rank(words: tuple[str, ...], size: int) -> None:
    """The preset's where it divides what one data-parallel rank has, else one sequence at a time."""
    assert asked(*words).cases[0].micro_batch_size == size


def test_how_to_run_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Folders, limits and switches arrive as they were written."""
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path))
    words = ("--results", "out", "--case-timeout", "5", "--max-ranks", "4", "--jobs", "3", "--pieces", "--fresh", "--seed", "7")
    found = asked(*words)
    assert (found.results, found.home, found.command) == (Path("out"), tmp_path, "the command")
    assert (found.timeout, found.max_ranks, found.jobs, found.debug, found.fresh) == (5.0, 4, 3, True, True)
    assert found.cases[0].seed == 7


@pytest.mark.parametrize(
    ("layers", "count", "dense"), [((), 4, (0,)), ((0, 2), 2, (0,)), ((1, 3), 2, ())], ids=["all", "first and third", "experts"]
)
def test_a_checkpoint_folder_is_a_model(checkpoint: Path, layers: tuple[int, ...], count: int, dense: tuple[int, ...]) -> None:
    """Its numbers are those of config.json; of some layers, those that are dense stay dense."""
    words = ["--layers", ",".join(map(str, layers))] if layers else []
    case = asked("--hf-model-path", str(checkpoint), *words).cases[0]
    assert (case.preset, case.hf_model_path, case.layers) == ("small", str(checkpoint), layers)
    assert case.model.rope_theta == 5000.0
    assert (case.model.num_hidden_layers, case.model.dense_layers) == (count, dense)


MISTAKES: dict[str, tuple[list[str], str]] = {
    "ranks of no recipe": (["--world-size", "4"], "--world-size says how many ranks train a recipe; give --recipe FILE"),
    "a tokenizer for no text": (["--tokenizer", "x"], "--tokenizer reads the text of --data; give --data FILE"),
    "unknown preset": (["--preset", "huge"], "preset 'huge' is unknown; known are tiny, mini"),
    "unknown layout": (["--layouts", "tpp2"], "layout 'tpp2' is not one"),
    "degree twice": (["--layouts", "tp2tp4"], "gives tp twice"),
    "layout twice": (["--layouts", "tp2,pp2,tp2"], "--layouts names tp2 twice"),
    "layout twice in other words": (["--layouts", "single,tp1"], "--layouts names single twice"),
    "unknown word": (["--layouts", "tp2+mpt"], "+mpt is unknown; after a layout may stand +distributed"),
    "no MTP layer": (["--layouts", "tp2+mtp0"], "+mtp0 is unknown"),
    "two numbers of MTP layers": (["--layouts", "tp2+mtp+mtp2"], "tp2+mtp+mtp2 asks for 1 and for 2 MTP layers"),
    "another number of MTP layers": (
        ["--layouts", "tp2+mtp3", "--set", "num_nextn_predict_layers=2"],
        "tp2+mtp3 asks for 3 MTP layers and --set num_nextn_predict_layers=2 for 2; give one number",
    ),
    "MTP and none": (["--layouts", "tp2+mtp", "--set", "mtp_num_layers=0"], "asks for 1 MTP layer and"),
    "MTP twice": (["--layouts", "tp2,tp2+mtp", "--set", "mtp_num_layers=2"], "--layouts names tp2 twice"),
    "layouts and degrees": (["--layouts", "tp2", "--pp", "2"], "--layouts and single degrees"),
    "degree of zero": (["--tp", "0"], "--tp 0: a degree is 1 or more"),
    "negative degree": (["--dp", "-2"], "--dp -2: a degree is 1 or more"),
    "layers without a folder": (["--layers", "0,1"], "give its folder with --hf-model-path"),
    "set without a value": (["--set", "num_layers"], "--set num_layers: give NAME=VALUE"),
    "set of an unknown number": (["--set", "nonsense=1"], "--set nonsense=1: no such number"),
    "set to no whole number": (["--set", "num_layers=two"], "--set num_layers=two: a whole number is needed"),
    "set to half a layer": (["--set", "num_layers=2.5"], "--set num_layers=2.5: a whole number is needed"),
    "set to no number": (["--set", "rope_theta=high"], "--set rope_theta=high: a number is needed"),
    "set to neither true nor false": (["--set", "tie_word_embeddings=1"], "write true or false"),
    "set to none": (["--set", "vocab_size=none"], "a whole number is needed"),
}


def assert_one_sentence(error: UsageError, said: str) -> None:
    assert said in str(error)
    assert "\n" not in str(error)
    assert error.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(("words", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(words: list[str], said: str) -> None:
    """What is wrong, in the user's own words, and what to write instead."""
    with pytest.raises(UsageError) as raised:
        asked(*words)
    assert_one_sentence(raised.value, said)


FOLDER_MISTAKES: dict[str, tuple[list[str], str]] = {
    "preset and folder": (["--preset", "tiny"], "give one of them"),
    "set and folder": (["--set", "num_layers=2"], "a checkpoint's numbers are its own"),
    "layers that are no numbers": (["--layers", "0,x"], "--layers 0,x: give layer numbers joined by commas"),
    "layers out of order": (["--layers", "2,1"], "in ascending order, each once, from 0 to 3"),
    "a layer twice": (["--layers", "1,1"], "in ascending order, each once"),
    "a layer too many": (["--layers", "0,4"], "each once, from 0 to 3"),
    "a negative layer": (["--layers", "-1,0"], "each once, from 0 to 3"),
}


@pytest.mark.parametrize(("words", "said"), FOLDER_MISTAKES.values(), ids=FOLDER_MISTAKES)
def test_a_mistake_with_a_folder_is_one_sentence(checkpoint: Path, words: list[str], said: str) -> None:
    """The same, where a checkpoint folder is given."""
    joined = [f"{words[0]}={words[1]}"]  # argparse takes -1,0 for an option
    with pytest.raises(UsageError) as raised:
        asked("--hf-model-path", str(checkpoint), *joined)
    assert_one_sentence(raised.value, said)


CONFIGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: path.unlink(), "no config.json; name a HuggingFace checkpoint folder"),
    "cut short": (lambda path: path.write_text('{"model_type": '), "config.json is not JSON"),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe{}"), "config.json is not JSON"),
    "a list": (lambda path: path.write_text("[]"), "config.json is not a JSON object"),
    "another model": (lambda path: path.write_text('{"model_type": "llama"}'), "Llama (model_type 'llama') is not compared"),
    "incomplete": (lambda path: path.write_text('{"model_type": "deepseek_v3"}'), "config.json lacks a number"),
}


@pytest.mark.parametrize(("spoil", "said"), CONFIGS.values(), ids=CONFIGS)
def test_a_folder_without_a_usable_config_is_one_sentence(checkpoint: Path, spoil: Callable[[Path], object], said: str) -> None:
    """Whatever is wrong with config.json, the sentence names the folder."""
    spoil(checkpoint / "config.json")
    with pytest.raises(UsageError) as raised:
        asked("--hf-model-path", str(checkpoint))
    assert_one_sentence(raised.value, said)
    assert str(checkpoint) in str(raised.value)


@pytest.mark.parametrize("option", ["--batch-size", "--micro-batch-size", "--seq-length"])
def test_a_size_of_zero_is_not_taken_for_none(option: str) -> None:
    """What was asked for reaches preflight, which refuses it; the preset's size in its place would go unnoticed."""
    field = option.removeprefix("--").replace("-", "_")
    assert getattr(asked(option, "0").cases[0], field) == 0


@pytest.mark.parametrize("option", ["--jobs=0", "--jobs=-1", "--max-ranks=0", "--case-timeout=0", "--case-timeout=nan"])
def test_limits_that_nothing_can_meet_are_refused(option: str) -> None:
    """No job at a time, no rank, no time: said before anything starts."""
    with pytest.raises(UsageError):
        asked(option)


NAMES = {
    "tiny-tp2+mtp-fp64-local-gloo": ["--layouts", "tp2+mtp"],
    "tiny-pp2+mtp2-fp64-local-gloo": ["--layouts", "pp2+mtp2"],
    "tiny-single+mtp-fp64-local-gloo": ["--set", "mtp_num_layers=1"],
    "tiny-single+mtp2-fp64-local-gloo": ["--layouts", "single+mtp", "--set", "num_nextn_predict_layers=2"],
    "tiny-tp2-fp64-local-gloo": ["--layouts", "tp2"],
    "mini-single-fp32-te-nccl": ["--preset", "mini", "--implementation", "te", "--transport", "nccl"],
    "tiny-pp2vpp2-fp32-local-stock-gloo": ["--layouts", "pp2vpp2", "--precision", "fp32", "--implementation", "local-stock"],
    "tiny-single-fp64-my.specs.spec-gloo": ["--implementation", "my.specs:spec"],
    "tiny-single-fp64-local-gloo-seed7": ["--seed", "7"],
}


@pytest.mark.parametrize(("name", "words"), NAMES.items(), ids=NAMES)
def test_a_case_has_a_name_that_is_a_file(name: str, words: list[str]) -> None:
    """The JUnit file is called after everything that tells one case from another."""
    assert asked(*words).cases[0].name == name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-._+")


def test_no_two_cases_of_a_command_share_a_file() -> None:
    """Layouts that differ in one degree have names that differ."""
    names = [case.name for case in asked("--layouts", "single,tp2,tp2dp1,tp2dp2,tp2etp1,ep2,ep2etp2,pp2,pp2vpp2,cp2").cases]
    assert len(names) == len(set(names)) == 10


@pytest.mark.parametrize("words", NAMES.values(), ids=NAMES)
def test_a_case_survives_the_way_to_its_ranks(words: list[str]) -> None:
    """Ranks get the case as JSON: what they read is equal, nested numbers included."""
    case = asked(*words).cases[0]
    assert Case.from_json(case.to_json()) == case


def test_a_case_of_a_folder_survives_the_way_to_its_ranks(checkpoint: Path) -> None:
    """Its path and its layers, too, and a layout with everything in it."""
    case = asked("--hf-model-path", str(checkpoint), "--layers", "0,2").cases[0]
    case = replace(case, layout=Layout.parse("tp2pp2vpp2ep4etp1cp2dp2nosp"), model=replace(case.model, q_lora_rank=None))
    assert Case.from_json(case.to_json()) == case


@pytest.mark.parametrize(
    ("ci", "words", "on"),
    [
        (None, (), False),
        ("", (), False),
        ("false", (), False),
        ("true", (), True),
        ("True", (), True),
        ("1", (), True),
        (None, ("--self-test",), True),
        ("true", ("--no-self-test",), False),
    ],
)
def test_a_run_tests_itself_in_ci_or_where_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, ci: str | None, words: tuple[str, ...], on: bool
) -> None:
    """CI systems set CI=true."""
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    assert asked(*words).self_test is on


def test_to_test_itself_and_not_to_is_refused() -> None:
    with pytest.raises(UsageError, match="--self-test and --no-self-test contradict each other; give one of them"):
        asked("--self-test", "--no-self-test")


def texts() -> list[str]:
    """The options that take a text of any kind."""
    found = []

    def add(name: str, **how: object) -> None:
        if not ({"type", "choices"} & how.keys() or how.get("action") in ("store_true", "append")):
            found.append(name)

    add_options(add)
    return found


@pytest.mark.parametrize("option", texts())
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_text_is_no_value_and_stands_for_no_default(option: str, value: str) -> None:
    """What a variable leaves that is not set; the run would be green, and another than was meant."""
    with pytest.raises(UsageError, match=rf"^{option} is empty: give it a value, or leave it out"):
        asked(option, value)


def test_only_commas_name_no_layout() -> None:
    with pytest.raises(UsageError, match=r"^--layouts , ,: names no layout; give names joined by commas, such as single,tp2"):
        asked("--layouts", ", ,")


def test_only_commas_name_no_layer(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match=r"^--layers ,: give layer numbers joined by commas, such as 0,1,3"):
        asked("--hf-model-path", str(checkpoint), "--layers", ",")
