"""The guide pages: what they list is what the code has, their commands are ones, their sentences are short."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ci.releases import NEWEST, OLDER, RELEASES
from tests.docs.blocks import GUIDES, blocks, commands, rows, sentences, unwrapped
from tests.docs.markdown import DOCS, ROOT
from tests.understood import understand
from validation.case.errors import ExitCode
from validation.case.preset import PRESETS
from validation.case.training import STREAM, WORDS, Training
from validation.checks import marks
from validation.checks.counted import counted
from validation.checks.selection import Selection
from validation.run.command_line import DEGREES, add_grouped
from validation.run.options import parsed
from validation.run.plugin import FUNCTIONS


def page(name: str) -> Path:
    return DOCS / f"{name}.md"


def code(cells: list[list[str]]) -> list[str]:
    """What stands in backticks in the first cell of each row."""
    return [word for row in cells for word in re.findall(r"`([^`]+)`", row[0])]


def options_of(add: argparse.ArgumentParser) -> set[str]:
    """The options of a parser as its help shows them; a short name instead of a long one."""
    shown = [action for action in add._actions if action.help != argparse.SUPPRESS]
    return {action.option_strings[0] for action in shown if action.option_strings} - {"-h"}


def test_every_option_of_a_run_is_explained_and_every_explained_one_is_there() -> None:
    parser = argparse.ArgumentParser()
    add_grouped(parser)
    text = page("comparing").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in re.findall(r"^\| `-.*$", text, re.MULTILINE)]
    explained = {word for cell in cells for word in re.findall(r"(?<![\w-])--?[\w-]+", cell)}
    assert explained == options_of(parser)


def test_every_preset_is_explained() -> None:
    assert code(rows(page("comparing"), "preset")) == list(PRESETS)


def test_every_degree_and_every_option_of_a_layout_is_explained() -> None:
    assert code(rows(page("layouts"), "degree")) == list(DEGREES)
    words = {word.removeprefix("+") for word in code(rows(page("layouts"), "option"))}
    assert words == {*WORDS, STREAM, "mtp", "vocab128", "1-3", "step-evaluate-step", "step-resume-pp2-step"}
    assert all(Training().with_word(word) != Training() for word in words - {"mtp"})


def test_every_function_of_a_plugin_is_explained_in_the_order_of_calls() -> None:
    assert [cell.partition("(")[0] for cell in code(rows(page("plugin"), "function"))] == list(FUNCTIONS)


def test_every_exit_code_is_explained() -> None:
    assert [int(row[0]) for row in rows(page("troubleshooting"), "exit code")] == [int(one) for one in ExitCode]


def test_every_mark_of_a_check_is_one() -> None:
    listed = code(rows(page("own-check"), "mark"))
    assert len(listed) > 5
    assert all(hasattr(marks, name) for name in listed)


def test_every_input_of_the_workflow_is_explained() -> None:
    called = yaml.safe_load((ROOT / ".github" / "workflows" / "parity.yml").read_text(encoding="utf-8"))
    explained = set(code(rows(page("github"), "input")))
    for_ourselves = {"event", "plumbline-repository", "plumbline-ref"}
    assert explained == set(called[True]["workflow_call"]["inputs"]) - for_ourselves


@dataclass(frozen=True)
class Scored:
    """The figures of the scorecard; `rules` says what each published rule sees, `by_logits` what logits within 1e-3 do."""

    faults: int
    caught: int
    localised: int
    cases: int
    alarms: int
    by_logits: int
    rules: tuple[int, ...]


def scored() -> Scored:
    measured = json.loads((DOCS / "scorecard.json").read_text(encoding="utf-8"))
    faults, clean = measured["outcomes"], measured["clean"]
    seen = {rule: sum(one["peers"][rule] for one in faults) for rule in faults[0]["peers"]}
    return Scored(
        len(faults),
        sum(one["status"] in CAUGHT for one in faults),
        sum(one["status"] == "seen" for one in faults),
        len(clean),
        sum(bool(one["failing"]) for one in clean),
        seen.pop("max diff < 1e-3"),
        tuple(seen.values()),
    )


CAUGHT = ("seen", "seen elsewhere")


def test_the_figures_of_the_scorecard_are_those_that_were_measured() -> None:
    found = scored()
    figures = [f"{found.caught} of {found.faults}", f"{found.localised}", f"{found.alarms} of {found.cases}"]
    assert [row[1] for row in rows(page("faults"), "figure")] == figures
    text = unwrapped(page("faults").read_text(encoding="utf-8"))
    assert f"This puts {found.faults} faults" in text
    assert f'"logits within 1e-3" sees {found.by_logits} faults' in text
    assert f"see between {min(found.rules)} and {max(found.rules)}." in text


def test_the_figures_of_the_diagnoses_are_those_that_were_measured() -> None:
    found = json.loads((DOCS / "diagnoses.json").read_text(encoding="utf-8"))["found"]
    right, shown = sum(one["status"] == "right" for one in found), sum(one["status"] != "nothing fails" for one in found)
    text = unwrapped(page("faults").read_text(encoding="utf-8"))
    assert f"names the cause of {right} of the {shown} faults that show" in text
    assert ("never names another cause for certain" in text) == all(one["status"] != "wrong" for one in found)


def test_the_figures_behind_known_bugs_are_those_that_were_measured() -> None:
    found = json.loads((DOCS / "scorecard-behind.json").read_text(encoding="utf-8"))["outcomes"]
    caught = sum(one["status"] in CAUGHT for one in found)
    idle = sum(one["status"] not in (*CAUGHT, "missed") for one in found)
    table = rows(page("faults"), f"{len(found)} runs")
    assert [row[1] for row in table] == [f"{caught}", f"{idle}", f"{len(found) - caught - idle}"]


def test_the_releases_are_those_that_are_run() -> None:
    """README and guide name the same ones, those of the table among them, and what is installed."""
    listed = {row[0]: row[1] for row in rows(page("fork"), "package")}
    releases = listed["megatron-core"].split(", ")
    assert {release.megatron_core for release in RELEASES} <= set(releases)
    base = (ROOT / "requirements" / "base.txt").read_text(encoding="utf-8")
    assert f"# {listed['transformers']} are run" in base
    text = " ".join(page("fork").read_text(encoding="utf-8").split())
    newest, older = NEWEST.megatron_core, OLDER.megatron_core
    assert f"installs megatron-core {newest} with Python 3.12 or newer, and {older} with Python 3.11" in text


RUN = ["python", "-m", "validation", "run"]
A_READERS_OWN = ("--hf-model-path", "--layers", "--candidate-checkpoint", "--megatron-path", "--recipe", "--world-size")
"""Options of `run` that look into folders and files which are not here, or go with one."""


def read(words: list[str]) -> None:
    """Raise unless the program of a command takes its words."""
    if words[:2] == ["python", "-m"] and words[2] not in ("validation", "ci"):
        assert importlib.util.find_spec(words[2]), words
    elif words[0] == "python" and words[1] != "-m":
        assert (ROOT / words[1]).is_file(), words
    elif words[-1] != "--help":
        in_front = ["", *words]
        left = [word for word, front in zip(words, in_front, strict=False) if not {word, front} & set(A_READERS_OWN)]
        understand(shlex.join(word.strip("[]") for word in (left if "run" in words else words)))


@pytest.mark.parametrize("where", GUIDES, ids=lambda where: where.name)
def test_every_command_is_one(where: Path, reader: None) -> None:
    for words in commands(where):
        read(words)


@pytest.mark.parametrize(
    "wrong", ["python -m validation run --no-such", "python -m ci gate --results x", "nox -s none", "python -m no_module"]
)
def test_a_command_with_a_mistake_is_seen(wrong: str) -> None:
    with pytest.raises((SystemExit, AssertionError)):
        read(wrong.split())


def test_a_name_behind_only_is_that_of_a_check() -> None:
    checks = [("", title) for _, title in counted(parsed([]).cases[0])]
    found = [words for where in sorted(DOCS.glob("*.md")) for words in commands(where) if words[:4] == RUN]
    names = [name for words in found for option, name in itertools.pairwise(words) if option == "--only"]
    assert len(names) > 3
    assert all(Selection((name,)).chosen(checks) for name in names)


@pytest.mark.parametrize("where", GUIDES, ids=lambda where: where.name)
def test_sentences_are_short(where: Path) -> None:
    """At most thirty words."""
    assert [one for one in sentences(where) if len(one.split()) > 30] == []


@pytest.mark.parametrize("where", GUIDES, ids=lambda where: where.name)
def test_every_example_in_python_is_python(where: Path) -> None:
    for text in blocks(where, "python"):
        compile(text, where.name, "exec")
