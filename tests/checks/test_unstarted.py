"""A run that ends before it starts leaves no results of the run before in its place, and loses none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ci import junit
from ci.folder import BEFORE
from ci.junit import Check, Suite
from tests.checks.conftest import ROOT, commands_in_turn, warm
from validation.checks import unstarted
from validation.checks.before import ASIDE

SINGLE, TP2 = "tiny-single-fp64-local-gloo", "tiny-tp2-fp64-local-gloo"
MTP, SELF_TEST = "tiny-tp2+mtp-fp64-local-gloo", "self-test-tiny-tp2-fp64-local-gloo"
MINE, LOWER = "tiny-tp2-fp64-mine.spec-gloo", "tiny-tp2-bf16-local-gloo"
NAMES = (SINGLE, TP2, MTP, SELF_TEST, MINE, LOWER, "tiny-tp2pp2-fp64-local-gloo", "tiny-tp2-fp64-local-gloo-seed5")


def earlier(folder: Path) -> Path:
    """A folder with reports of earlier runs."""
    for name in NAMES:
        junit.write(folder / f"{name}.xml", Suite(name, (Check("a", "b", "pass"),), {}))
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The same for a test that needs one."""
    return earlier(tmp_path)


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    """One process runs one command; this one plays many."""
    yield
    ASIDE.told()


def gone(results: Path) -> set[str]:
    """The reports that are no longer in their place; each is in `before/`."""
    moved = {name for name in NAMES if not (results / f"{name}.xml").exists()}
    there = {path.stem for path in (results / BEFORE).iterdir()} if moved else set()
    assert there == moved
    return moved


WRONG: dict[str, tuple[Sequence[str], set[str]]] = {
    "nothing": (["--tp", "2"], {TP2}),
    "no layout named": ([], {SINGLE}),
    "another folder": (["--tp", "2", "--results", "elsewhere"], set()),
    "no folder": (["--tp", "2", "--results", ""], set()),
    "the self-test": (["--tp", "2", "--self-test"], {TP2, SELF_TEST}),
    "both self-tests": (["--tp", "2", "--self-test", "--no-self-test"], {TP2, SELF_TEST}),
    "one of several layouts": (["--layouts", "tpp2,tp2,single"], {SINGLE, TP2}),
    "an impossible layout beside one": (["--layouts", "tp3,single"], {SINGLE}),
    "no such layout": (["--layouts", "tpp2"], set()),
    "an unknown option": (["--tp", "2", "--colour", "red"], {TP2}),
    "a word for a number": (["--tp", "2", "--steps", "two", "--case-timeout", "soon"], {TP2}),
    "a value that is missing": (["--tp", "2", "--seed"], set()),
    "a word that is no value": (["--tp", "2", "--loss", "none"], {TP2}),
    "a number of the model": (["--tp", "2", "--set", "nonsense=1"], {TP2}),
    "an impossible model": (["--tp", "2", "--set", "qk_rope_head_dim=7"], {TP2}),
    "limits": (["--tp", "2", "--jobs=-1", "--steps=-1", "--max-ranks", "0"], {TP2}),
    "an unset variable": (["--tp", "2", "--megatron-path", "", "--plugin", ""], {TP2}),
    "no such checkout": (["--tp", "2", "--megatron-path", "/nowhere", "--self-test"], {TP2}),
    "no such plugin": (["--tp", "2", "--plugin", "/nowhere.py"], {TP2}),
    "no such checkpoint": (["--tp", "2", "--candidate-checkpoint", "/nowhere"], {TP2}),
    "a seed that is too large": (["--tp", "2", "--seed", "9" * 30], {TP2}),
    "another seed": (["--tp", "2", "--seed", "5"], {"tiny-tp2-fp64-local-gloo-seed5"}),
    "no such implementation": (["--tp", "2", "--implementation", "no.such:thing"], {TP2, MINE}),
    "another implementation": (["--tp", "2", "--implementation", "te"], set()),
    "no such precision": (["--tp", "2", "--precision", "fp7"], {TP2, LOWER}),
    "another precision": (["--tp", "2", "--precision", "bf16"], {LOWER}),
    "another transport": (["--tp", "2", "--transport", "nccl"], set()),
    "a layout and degrees": (["--layouts", "tp2+mtp", "--tp", "2"], {MTP}),
    "no such folder": (["--tp", "2", "--hf-model-path", "/nowhere/tiny"], {TP2, MTP}),
    "a manifest": (["--tp", "2", "--manifest", "m.json"], set()),
}


@pytest.mark.parametrize(("words", "moved"), WRONG.values(), ids=WRONG)
def test_what_the_command_would_have_replaced_leaves_its_place(
    results: Path, words: Sequence[str], moved: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else does: results of other cases are not of this run."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.chdir(results)
    unstarted.ended([*([] if "--results" in words else ["--results", str(results)]), *words])
    assert gone(results) == moved


@pytest.mark.parametrize(("name", "value"), [("PLUMBLINE_CACHE_LIMIT", "much"), ("PLUMBLINE_CACHE", "/tmp/\udcff")])
def test_so_it_is_where_the_cache_is_why_a_run_does_not_start(
    results: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which results a command would have replaced is known without a cache."""
    monkeypatch.setenv(name, value)
    unstarted.ended(["--tp", "2", "--results", str(results), "--cache-limit", "many"])
    assert gone(results) == {TP2}


def test_a_folder_with_marks_of_patterns_in_its_name_is_taken_by_its_letters(tmp_path: Path) -> None:
    folder = tmp_path / "r[1]*"
    junit.write(folder / f"{SINGLE}.xml", Suite(SINGLE, (Check("a", "b", "pass"),), {}))
    unstarted.ended(["--results", str(folder)])
    assert [path.name for path in folder.iterdir()] == [BEFORE]


ENDS: dict[str, tuple[list[str], int]] = {
    "an implementation": (["--implementation", "no.such:thing"], 2),
    "preflight": (["--max-ranks", "1"], 2),
    "memory": (["--seq-length", "100000000"], 3),
    "argparse": (["--colour", "red"], 2),
}


@pytest.mark.parametrize(("words", "code"), ENDS.values(), ids=ENDS)
def test_so_it_is_with_a_real_command(results: Path, tmp_path: Path, words: list[str], code: int) -> None:
    """A line says where they are; the sentence is one still."""
    done = warm(["run", "--tp", "2", "--results", str(results), *words], tmp_path / "cache")
    assert (done.returncode, done.stderr.count("error: ")) == (code, 1), done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Kept from before, for this run has not started: ")]
    assert f"{results}/{BEFORE}" in line
    assert TP2 in gone(results)


def test_help_leaves_them(results: Path, tmp_path: Path) -> None:
    done = warm(["run", "--tp", "2", "--results", str(results), "--help"], tmp_path / "cache")
    assert (done.returncode, "Kept from before" in done.stdout) == (0, False)
    assert gone(results) == set()


def test_so_it_is_where_pytest_ends_before_a_check(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A selection of nothing and an option that it has not; what is to list checks alone leaves the reports."""
    ends = {"selection": ["-k", "no_such_check"], "option": ["--no-such-option"], "list": ["--collect-only"]}
    folders = {name: earlier(tmp_path / name) for name in ends}
    words = [["run", "--tp", "2", "--results", str(folders[name]), "--", *last] for name, last in ends.items()]
    said = commands_in_turn(words, tmp_path / "cache", tmp_path_factory.mktemp("texts"))
    assert [code for code, _ in said] == [2, 2, 0]
    assert ["Kept from before, for this run has not started: " in text for _, text in said] == [True, True, False]
    assert [gone(folder) for folder in folders.values()] == [{TP2}, {TP2}, set()]
    assert not (folders["list"] / BEFORE).exists()


@pytest.mark.parametrize("words", [["--candidate-checkpoint", "/nowhere"], ["--max-ranks", "1"]], ids=["option", "preflight"])
def test_so_it_is_with_pytest_alone(results: Path, tmp_path: Path, words: list[str]) -> None:
    """`pytest validation/checks` takes the same options."""
    of_pytest = [sys.executable, "-m", "pytest", "validation/checks", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PLUMBLINE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*of_pytest, "--tp", "2", "--results", str(results), *words], cwd=ROOT, env=environment, check=False, timeout=1800
    )
    assert done.returncode == 2
    assert gone(results) == {TP2}


SLOW = """
import os, signal, sys
from validation import cli
from validation.run import prepare
def killed(*arguments):
    os.kill(os.getpid(), int(sys.argv[1]))
    signal.pause()
prepare.begin = killed
cli.main(sys.argv[2:])
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_while_it_starts_leaves_none_either(results: Path, tmp_path: Path, how: signal.Signals) -> None:
    words = [sys.executable, "-c", SLOW, str(int(how)), "run", "--tp", "2", "--results", str(results)]
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, timeout=1800)
    assert done.returncode != 0
    assert gone(results) == {TP2}
