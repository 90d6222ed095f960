"""`python -m validation run --help`: every option once, under a heading, with what may follow a layout."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from validation.case.training import STREAM, WORDS, Training
from validation.cli import main
from validation.run.command_line import GROUPS, add_options
from validation.run.options import parsed


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a wide terminal shows."""
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["run", "--help"])
    return capsys.readouterr().out.partition("\nexamples:")[0]


def test_every_option_is_there_once(shown: str) -> None:
    """Under the name that is shown, if it has two."""
    own: list[str] = []
    add_options(lambda *names, **about: own.append(names[-1]))
    other = {"--case-timeout": "--timeout", "--pieces": "--debug"}
    found = Counter(re.findall(r"^  (?:-\w, )?(--[\w-]+)", shown, re.M))
    alone = ("--only", "--last-failed", "--verbose", "--quiet", "--format")
    assert found == Counter([*(other.get(name, name) for name in own), *alone, "--help"])


def test_options_stand_under_headings(shown: str) -> None:
    """In groups of a size that is read, the model first."""
    headings = re.findall(r"^(\w[^\n]*):$", shown, re.M)
    assert headings == ["options", *(group.title for group in GROUPS)]
    sizes = [len(re.findall(r"^  --", part, re.M)) for part in re.split(r"^\w[^\n]*:$", shown, flags=re.M)[2:]]
    assert len(sizes) == len(GROUPS)
    assert max(sizes) <= 14


def test_the_words_that_may_follow_a_layout_are_listed(shown: str) -> None:
    """All of the table, and each that is listed is one."""
    listed = re.findall(r"^    \+(\S+)", shown, re.M)
    assert set(listed) == {*WORDS, STREAM, "mtp", "1-3"}
    for word in set(listed) - {"mtp"}:
        assert Training().with_word(word) != Training()


@pytest.mark.parametrize("words", [("--timeout", "5", "--debug"), ("--case-timeout", "5", "--pieces")])
def test_both_names_of_an_option_are_taken(words: tuple[str, ...]) -> None:
    found = parsed(words)
    assert (found.timeout, found.debug) == (5.0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "python -m validation: error: give a command: run, faults, "),
        ("recipe", "python -m validation recipe: error: give a command: show, capture; --help says what each does"),
        ("run --layots tp2", "run: error: unrecognized arguments: --layots tp2; the nearest option is --layouts"),
        ("run tp2+full,pp2", "run: error: unrecognized arguments: tp2+full,pp2; give --layouts tp2+full,pp2"),
        ("run somewhere", "run: error: unrecognized arguments: somewhere\n"),
        ("slurm run --nodez=2", "slurm run: error: unrecognized arguments: --nodez=2; the nearest option is --nodes"),
    ],
)
def test_a_word_that_nobody_knows_is_refused_with_what_may_have_been_meant(
    words: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^2$"):
        main(words.split())
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "faults", "plan", "inspect", "recipe", "recipe capture", "slurm show", "convert"])
def test_the_help_of_a_command_begins_with_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence behind the usage; and the examples of `run` are runs."""
    with pytest.raises(SystemExit, match=r"^0$"):
        main([*command.split(), "--help"])
    said = capsys.readouterr().out
    sentence = said.partition("\n\n")[2].partition("\n\n")[0]
    assert re.fullmatch(r"[A-Z].*[.?]", sentence, re.S)
    if command == "run":
        examples = re.findall(r"^  python -m validation (\S+)", said.partition("\nexamples:")[2].partition("\n\n")[0], re.M)
        assert set(examples) == {"run"}
