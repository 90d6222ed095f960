"""A team's layouts, from the workflow's inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import caller, junit
from ci.cli import main
from ci.folder import Results
from ci.table import TABLE, rows, tools
from tests.ci.green import FILE, SUITE
from validation.case.errors import UsageError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in {"LAYOUTS": "tp2, pp2+mtp", "TRANSPORT": "nccl", "PRECISION": "fp32", "TIMEOUT": "45"}.items():
        monkeypatch.setenv(f"PLUMBLINE_{name}", value)
    monkeypatch.setenv("PLUMBLINE_RUNNER", "self-hosted,gpus-{gpus}")
    monkeypatch.setenv("PLUMBLINE_IMPLEMENTATION", "team.spec:layers")
    return monkeypatch


def test_each_layout_is_a_session_on_the_teams_machines(asked: pytest.MonkeyPatch) -> None:
    found = [(row.session, row.layouts, row.runner, row.timeout, row.when) for row in rows()]
    assert found == [
        ("gpu_tp2", ("tp2",), ("self-hosted", "gpus-2"), 45, ("workflow_call",)),
        ("gpu_pp2+mtp", ("pp2+mtp",), ("self-hosted", "gpus-2"), 45, ("workflow_call",)),
    ]
    assert {row.implementation for row in rows()} == {"team.spec:layers"}
    assert tools() == []


def test_a_table_that_is_named_is_read_whatever_a_team_asks_for(asked: pytest.MonkeyPatch) -> None:
    """The page about our own sessions is made of our own table."""
    in_place = rows(), tools()
    found = rows(TABLE), tools(TABLE)
    asked.delenv("PLUMBLINE_LAYOUTS")
    assert found == (rows(), tools()) != in_place


def test_the_page_of_sessions_is_that_of_our_table(asked: pytest.MonkeyPatch) -> None:
    assert main(["sessions", "--check"]) == 0


def test_without_layouts_the_table_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_LAYOUTS", "")
    assert rows() == rows(TABLE)


def test_what_is_left_out_is_what_the_command_line_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_LAYOUTS", "tp2")
    (row,) = rows()
    assert (row.session, row.preset, row.precision, row.implementation, row.transport) == (
        "cpu_tp2",
        "tiny",
        "fp64",
        "local",
        "gloo",
    )


def test_what_is_left_out_on_gpus_is_what_people_train_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that is there, even so, is kept."""
    monkeypatch.setenv("PLUMBLINE_LAYOUTS", "tp2")
    monkeypatch.setenv("PLUMBLINE_TRANSPORT", "nccl")
    for name in ("PRESET", "PRECISION", "IMPLEMENTATION", "RUNNER"):
        monkeypatch.setenv(f"PLUMBLINE_{name}", "")
    (row,) = rows()
    assert (row.session, row.preset, row.precision, row.implementation) == ("gpu_tp2", "mini", "bf16", "te")
    assert row.runner == ("self-hosted", "linux", "gpus-2")
    monkeypatch.setenv("PLUMBLINE_PRECISION", "fp32")
    assert rows()[0].precision == "fp32"


MOONLIGHT = "tests/recipe/known/slime-moonlight.txt"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("PLUMBLINE_RECIPE", f"../{TABLE.parents[1].name}/{MOONLIGHT}")
    return monkeypatch


def test_a_recipe_is_one_session(recipe: pytest.MonkeyPatch) -> None:
    """Which reads the file that lies beside the checkout, as the workflow puts it."""
    recipe.setenv("PLUMBLINE_WORLD_SIZE", "0")
    (row,) = rows()
    assert (row.session, row.does, row.gpus) == ("cpu_recipe", "compare the stand-in of slime-moonlight.txt on the CPU", 0)
    assert (row.world_size, row.coverage, row.when) == (None, None, ("workflow_call",))
    recipe.setenv("PLUMBLINE_WORLD_SIZE", "64")
    recipe.setenv("PLUMBLINE_COVERAGE", "0.4")
    (row,) = rows()
    assert (row.world_size, row.coverage) == (64, 0.4)
    assert row.arguments()[:5] == ["run", "--recipe", row.recipe, "--world-size", "64"]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("LAYOUTS", "tp2", "layouts and recipe both say what is compared; give one of them"),
        ("MEGATRON", "team/Megatron-LM", "leave megatron-repository out"),
        ("RECIPE", "../recipe/none.txt", "recipe ../recipe/none.txt is no file of the repository"),
        ("TRANSPORT", "nccl", "a row with `recipe` has transport gloo"),
        ("WORLD_SIZE", "many", "world_size is 'many'; it must be a number of ranks"),
        ("COVERAGE", "all", "coverage is 'all'; it must be a share from 0 to 1"),
        ("COVERAGE", "nan", "coverage is nan; it must be a share from 0 to 1"),
    ],
)
def test_a_recipe_that_cannot_be_compared_is_refused(recipe: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    recipe.setenv(f"PLUMBLINE_{name}", value)
    with pytest.raises(UsageError, match=sentence):
        rows()


@pytest.mark.parametrize("name", ["", "fp64", "results-x", "plumbline-", "a_B-9"])
def test_no_call_finds_what_another_has_left(name: str) -> None:
    """Whatever their names and sessions are: the workflow's pattern is an artifact's beginning."""
    mine = caller.prefix({"PLUMBLINE_NAME": name})
    others = [
        caller.prefix({"PLUMBLINE_NAME": other})
        for other in ("", "fp64", "fp", "fp64-", "results-x", "results-")
        if other != name
    ]
    assert not any(f"{other}{kind}-cpu_tp2".startswith(f"{mine}results-") for other in others for kind in ("results", "tool"))


@pytest.mark.parametrize("name", ["*", "a.b", "a b", "a/b", "a\n", "é", "x" * 51])
def test_a_name_that_could_be_a_pattern_is_none(name: str) -> None:
    with pytest.raises(UsageError, match="give at most 50 letters, digits, - and _"):
        caller.prefix({"PLUMBLINE_NAME": name})


def test_results_of_a_named_call_lie_where_its_artifacts_are_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_NAME", "fp64")
    junit.write(tmp_path / "plumbline-fp64.results-cpu_tp2" / FILE, SUITE)
    junit.write(tmp_path / "plumbline-bf16.results-cpu_tp2" / FILE, SUITE)
    assert list(Results(tmp_path).files()) == [("cpu_tp2", FILE)]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("LAYOUTS", "tp3", "the workflow's inputs: .*tp3 does not divide"),
        ("LAYOUTS", "tp2,tp2", "session gpu_tp2 is there twice"),
        ("LAYOUTS", ",", "each is .*; it must be a list of words"),
        ("TIMEOUT", "soon", "timeout is 'soon'; it must be a whole number of minutes"),
        ("PRECISION", "fp6", "precision 'fp6' is unknown"),
        ("TRANSPORT", "tcp", "transport 'tcp' is unknown"),
        ("RUNNER", ",", "runner is .*; it must be a list of words"),
    ],
)
def test_wrong_inputs_are_refused_with_a_sentence(asked: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    asked.setenv(f"PLUMBLINE_{name}", value)
    with pytest.raises(UsageError, match=sentence):
        rows()
