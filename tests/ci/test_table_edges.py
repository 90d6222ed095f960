"""The table and a caller's row at their edges: every refusal to its last word, and what stands where nothing is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci import caller
from ci.sessions import page
from ci.table import EVENTS, TABLE, Row, Tool, rows, running, tools
from validation.case.errors import UsageError

ROW: dict[Any, Any] = {
    "session": "one",
    "does": "compare",
    "preset": "tiny",
    "layouts": ["tp2"],
    "precision": "fp64",
    "implementation": "local",
    "transport": "gloo",
    "runner": ["ubuntu"],
    "when": ["nightly"],
    "timeout": 1,
}
TOOL = {name: ROW[name] for name in ("session", "does", "runner", "when", "timeout")}
KEYS = (
    "does, each, implementation, inference, layouts, nodes, precision, preset, runner, session, set, steps, timeout, "
    "transport, when"
)
KEYS_OF_TOOL = "does, runner, session, timeout, when"


def table(folder: Path, *entries: object, **more: object) -> Path:
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump({"rows": list(entries), **more}), encoding="utf-8")
    return path


def without(entry: dict[Any, Any], *names: str, **more: Any) -> dict[Any, Any]:
    return {name: value for name, value in entry.items() if name not in names} | more


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (without(ROW, "when", "timeout"), f"one: timeout is missing; a row has {KEYS}"),
        (without(ROW, b="1", a="1"), f"one: a is unknown; a row has {KEYS}"),
        ({**ROW, "a": "1", 1: "1"}, f"one: 1 is unknown; a row has {KEYS}"),
        (without(ROW, each=["tp2"]), "one: give either `layouts`, for one session, or `each`, for one session per layout"),
        (without(ROW, "layouts"), "one: give either `layouts`, for one session, or `each`, for one session per layout"),
        (
            without(ROW, "layouts", each=["tp2"]),
            "one: a row with `each` is several sessions; put {layout} into its session name",
        ),
        (without(ROW, "layouts", each=[]), "one: each is []; it must be a list of words"),
        (without(ROW, layouts=["tp2", "pp2", "pp2"]), "one: layout pp2 is there twice; give each layout once"),
        (without(ROW, layouts=["tp2", "pp2", "pp2", "tp2"]), "one: layout tp2 is there twice; give each layout once"),
        (without(ROW, layouts=["tp2", ""]), "one: layouts is ['tp2', '']; it must be a list of words"),
        (without(ROW, when=["nightly", "a", "b"]), f"one: event 'a' is unknown; known are {', '.join(EVENTS)}"),
        (without(ROW, when="nightly"), "one: when is 'nightly'; it must be a list of words"),
        (without(ROW, timeout=True), "one: timeout is True; it must be a whole number of minutes"),
        (without(ROW, timeout=0), "one: timeout is 0; it must be a whole number of minutes"),
        (without(ROW, does=""), "one: does is ''; it must be text"),
        (without(ROW, "session"), f"row 1: session is missing; a row has {KEYS}"),
        ([], "row 1: [] is no row; a row is a mapping"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_row_is_one_sentence(tmp_path: Path, entry: object, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        rows(table(tmp_path, entry))
    assert str(raised.value) == f"table.yaml: {said}"


def test_a_row_without_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    """Which counts from one."""
    with pytest.raises(UsageError, match=r"^table\.yaml: row 2: 3 is no row; a row is a mapping$"):
        rows(table(tmp_path, ROW, 3))


def test_two_sessions_of_one_name_are_told(tmp_path: Path) -> None:
    """Whatever stands between them."""
    with pytest.raises(UsageError) as raised:
        rows(table(tmp_path, ROW, without(ROW, session="two"), ROW))
    assert str(raised.value) == "table.yaml: session one is there twice; give each a name of its own"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- a", "there is no list of `rows`; write one row for each session"),
        ("rows: {}", "there is no list of `rows`; write one row for each session"),
        ("rows: {a: b}", "there is no list of `rows`; write one row for each session"),
    ],
)
def test_a_table_without_rows_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "table.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        rows(tmp_path / "table.yaml")
    assert str(raised.value) == f"table.yaml: {said}"


def test_why_a_file_is_not_yaml_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "table.yaml").write_text("rows: [\n  a\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"^table\.yaml: not YAML \(while parsing a flow sequence in .*\)$") as raised:
        rows(tmp_path / "table.yaml")
    assert "\n" not in str(raised.value)
    assert "  " not in str(raised.value)


def test_the_least_that_may_be_said_is_read(tmp_path: Path) -> None:
    """A row that no event runs, for a minute."""
    assert rows(table(tmp_path, without(ROW, when=[]))) == [
        Row("one", "compare", "tiny", ("tp2",), "fp64", "local", "gloo", ("ubuntu",), (), 1)
    ]


@pytest.mark.parametrize(("transport", "gpus"), [("gloo", 0), ("staged-cpu", 0), ("staged", 1), ("nccl", 4)])
def test_gpus_are_those_of_the_largest_layout(tmp_path: Path, transport: str, gpus: int) -> None:
    """One where ranks share it; a runner's label may have the number."""
    (row,) = rows(
        table(
            tmp_path,
            without(ROW, transport=transport, layouts=["single", "tp2pp2+distributed", "tp2"], runner=["a-{gpus}", "b"]),
        )
    )
    assert (row.gpus, row.runner) == (gpus, (f"a-{gpus}", "b"))


def test_each_fills_every_name_in(tmp_path: Path) -> None:
    """In the session and in what it does, as often as it stands there."""
    entry = without(
        ROW, "layouts", session="on_{layout}", does="{layout} and {layout}: {ranks}", each=["single", "tp2pp2+distributed"]
    )
    found = rows(table(tmp_path, entry))
    assert [(row.session, row.does, row.layouts) for row in found] == [
        ("on_single", "single and single: 1 rank", ("single",)),
        (
            "on_tp2pp2+distributed",
            "tp2pp2+distributed and tp2pp2+distributed: 4 ranks",
            ("tp2pp2+distributed",),
        ),
    ]


def test_tools_are_read_from_the_same_file(tmp_path: Path) -> None:
    """Which need not have any."""
    assert tools(table(tmp_path, ROW)) == []
    assert tools(table(tmp_path, ROW, tools=None)) == []
    (tool,) = tools(table(tmp_path, ROW, tools=[TOOL]))
    assert tool == Tool("one", "compare", ("ubuntu",), ("nightly",), 1)
    assert tool.gpus == 0


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a": 1}, "`tools` is {'a': 1}; it must be a list of sessions"),
        ([ROW], f"one: implementation is unknown; a row has {KEYS_OF_TOOL}"),
        ([without(TOOL, "does")], f"one: does is missing; a row has {KEYS_OF_TOOL}"),
        ([without(TOOL, when=["x"])], f"one: event 'x' is unknown; known are {', '.join(EVENTS)}"),
        ([TOOL, TOOL], "session one is there twice; give each a name of its own"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_tool_is_one_sentence(tmp_path: Path, found: object, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        tools(table(tmp_path, ROW, tools=found))
    assert str(raised.value) == f"table.yaml: {said}"


def test_sessions_that_some_event_runs_are_known_unless_a_team_has_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose other calls nobody knows."""
    monkeypatch.delenv("PLUMBLINE_LAYOUTS", raising=False)
    assert running() == frozenset(row.session for row in rows(TABLE) if row.when)
    assert any(not row.when for row in rows(TABLE))
    monkeypatch.setenv("PLUMBLINE_LAYOUTS", "tp2")
    assert running() is None


@pytest.mark.parametrize("layout", ["tp2+mtp", "tp2+mtp2", "single+mtp+mean+seqaux", "single+distributed"])
def test_a_layout_may_have_its_options(tmp_path: Path, layout: str) -> None:
    (row,) = rows(table(tmp_path, without(ROW, layouts=[layout])))
    assert row.arguments()[3:5] == ["--layouts", layout]


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("tp2+1-3", "+1-3 gives the layers of 2 pipeline stages and the layout has pp1"),
        ("tp2+mtp60", "leaves the last MTP layer nothing to predict"),
        ("tp3", "tp3 does not divide"),
    ],
)
def test_a_layout_whose_options_no_machine_can_run_is_refused(tmp_path: Path, layout: str, said: str) -> None:
    """As a run of it would be: those of its step, and its MTP layers."""
    with pytest.raises(UsageError, match=re.escape(said)):
        rows(table(tmp_path, without(ROW, layouts=[layout])))


def test_a_caller_s_row_is_what_stands_where_nothing_is_said() -> None:
    assert caller.row({}) is None
    assert caller.row({"PLUMBLINE_LAYOUTS": " tp2 ,, pp2,"}) == {
        "session": "cpu_{layout}",
        "does": "compare {layout} in fp64 on the CPU ({ranks} over gloo)",
        "preset": "tiny",
        "each": ["tp2", "pp2"],
        "precision": "fp64",
        "implementation": "local",
        "transport": "gloo",
        "runner": ["ubuntu-24.04"],
        "when": ["workflow_call"],
        "timeout": 60,
    }


def test_a_caller_s_row_is_what_the_inputs_say() -> None:
    """Each of them."""
    said = {
        "LAYOUTS": "tp2",
        "TRANSPORT": "nccl",
        "PRECISION": "bf16",
        "PRESET": "mini",
        "IMPLEMENTATION": "te",
        "RUNNER": "a, b",
        "TIMEOUT": "7",
    }
    assert caller.row({f"PLUMBLINE_{name}": value for name, value in said.items()}) == {
        "session": "gpu_{layout}",
        "does": "compare {layout} in bf16 on GPUs ({ranks} over nccl)",
        "preset": "mini",
        "each": ["tp2"],
        "precision": "bf16",
        "implementation": "te",
        "transport": "nccl",
        "runner": ["a", "b"],
        "when": ["workflow_call"],
        "timeout": 7,
    }


@pytest.mark.parametrize(("text", "minutes"), [("9" * 9, 999_999_999), ("9" * 10, "9" * 10), ("-1", "-1"), ("1.5", "1.5")])
def test_minutes_are_a_number_or_left_to_be_refused(text: str, minutes: object) -> None:
    """Of no more digits than a number of minutes can have."""
    found = caller.row({"PLUMBLINE_LAYOUTS": "tp2", "PLUMBLINE_TIMEOUT": text})
    assert found is not None
    assert found["timeout"] == minutes


@pytest.mark.parametrize(("name", "prefix"), [("", ""), ("a", "plumbline-a."), ("x" * 50, f"plumbline-{'x' * 50}.")])
def test_a_call_s_name_stands_in_front(name: str, prefix: str) -> None:
    assert caller.prefix({"PLUMBLINE_NAME": name}) == prefix
    assert caller.prefix({}) == ""


def test_a_name_that_is_none_is_said_with_what_would_be() -> None:
    with pytest.raises(UsageError) as raised:
        caller.prefix({"PLUMBLINE_NAME": "a.b"})
    assert str(raised.value) == "name 'a.b': give at most 50 letters, digits, - and _"


OF_RECIPE = without(
    ROW, "preset", "layouts", "precision", recipe="tests/recipe/known/slime-moonlight.txt", world_size=8, coverage=0.5
)
KEYS_OF_RECIPE = "coverage, does, implementation, nodes, recipe, runner, session, timeout, transport, when, world_size"


def test_a_recipe_says_model_layout_and_precision_itself(tmp_path: Path) -> None:
    (row,) = rows(table(tmp_path, OF_RECIPE))
    words = "run --recipe tests/recipe/known/slime-moonlight.txt --world-size 8 --implementation local --transport gloo"
    assert (" ".join(row.arguments()), row.gpus, row.coverage) == (words, 0, 0.5)
    assert "| its stand-in's | tests/recipe/known/slime-moonlight.txt | the recipe's |" in page([row], [])
    (least,) = rows(table(tmp_path, without(OF_RECIPE, "world_size", "coverage", transport="staged", runner=["gpu-{gpus}"])))
    assert (least.gpus, least.runner, least.coverage) == (1, ("gpu-1",), None)
    assert "--world-size" not in least.arguments()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"layouts": ["tp2"]}, f"one: layouts is unknown; a row has {KEYS_OF_RECIPE}"),
        ({"coverage": 1.5}, "one: coverage is 1.5; it must be a share from 0 to 1"),
        ({"coverage": True}, "one: coverage is True; it must be a share from 0 to 1"),
        ({"world_size": 0}, "one: world_size is 0; it must be a number of ranks"),
        ({"recipe": "none.txt"}, "one: recipe none.txt is no file of the repository; give its path from the root"),
        ({"transport": "nccl"}, "one: a row with `recipe` has transport gloo, or staged on one GPU; nccl is for `layouts`"),
    ],
)
def test_a_row_of_a_recipe_that_cannot_be_is_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        rows(table(tmp_path, {**OF_RECIPE, **changed}))
    assert str(raised.value) == f"table.yaml: {said}"


def test_only_a_recipe_has_a_share(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="coverage is unknown"):
        rows(table(tmp_path, {**ROW, "coverage": 0.5}))
