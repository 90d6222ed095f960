"""What `nox -s mutants` makes of mutmut's output, and of the code before mutmut gets it. mutmut itself is not run here."""

from __future__ import annotations

import configparser
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from tests.mutants import __main__ as command
from tests.mutants import copied, mutmut
from tests.mutants.score import Score, listing, score
from tests.mutants.table import ROOT, Equivalent, Mutation, Row
from validation.case.errors import ExitCode

DECORATED = '''
import functools

class Number:
    """A number."""

    @property
    def half(self) -> int:
        """Half of it."""
        return 4 // 2

    @staticmethod
    def same(one: int) -> int:
        return one

    @functools.cached_property
    def double(self) -> int:
        return 8

@functools.cache
@functools.lru_cache(
    maxsize=3,
)
def counted(to: int) -> list[int]:
    # A comment stays.
    return list(range(to))
'''


def test_decorators_become_calls_and_the_program_stays_the_same() -> None:
    """Properties, caches and several at once; what mutmut can mutate is left as it is."""
    plain, changed = ({}, {})  # type: dict[str, Any], dict[str, Any]
    source = copied.undecorated(DECORATED)
    exec(DECORATED, plain)
    exec(source, changed)
    for made in (plain, changed):
        assert (made["Number"]().half, made["Number"]().double, made["Number"].same(3)) == (2, 8, 3)
        assert made["counted"](3) is made["counted"](3)
    assert [line.strip() for line in source.splitlines() if line.strip().startswith("@")] == ["@staticmethod"]
    assert "    half = property(half)\n" in source
    assert "counted = functools.lru_cache(maxsize=3)(counted)\ncounted = functools.cache(counted)\n" in source
    assert "# A comment stays." in source


def test_the_copy_has_the_settings_of_its_row_and_the_tree_is_left_alone(tmp_path: Path) -> None:
    row = Row(("validation/compare/piece.py", "ci/gate.py"), ("tests/compare/test_piece.py",), ("tests/a.py::test_b",))
    before = (ROOT / row.modules[0]).read_text(encoding="utf-8")
    copied.make(tmp_path / "copy", row)
    read = configparser.ConfigParser()
    read.read(tmp_path / "copy" / "setup.cfg")
    settings = {name: value.split() for name, value in read["mutmut"].items()}
    assert settings["only_mutate"] == list(row.modules)
    assert settings["pytest_add_cli_args_test_selection"] == list(row.tests)
    assert settings["pytest_add_cli_args"][-1] == "--deselect=tests/a.py::test_b"
    assert settings["source_paths"] == ["ci", "validation"]
    assert {"tests", "docs", "pyproject.toml"} <= set(settings["also_copy"])
    assert "@functools" not in (tmp_path / "copy" / row.modules[0]).read_text(encoding="utf-8")
    assert (ROOT / row.modules[0]).read_text(encoding="utf-8") == before
    assert "@functools" in before


RESULTS = """
    ci.gate.x_judged__mutmut_1: killed
    ci.gate.x__one__mutmut_12: survived
    validation.compare.difference.xǁDifferenceǁ_half__mutmut_3: no tests
To apply a mutant: see the manual
"""


def test_mutants_are_read_with_their_module_and_function() -> None:
    """A function of a class has its name in front; names may begin with an underscore."""
    found = list(mutmut.read(RESULTS))
    assert [(one.module, one.function, one.status) for one in found] == [
        ("ci/gate.py", "judged", "killed"),
        ("ci/gate.py", "_one", "survived"),
        ("validation/compare/difference.py", "Difference._half", "no tests"),
    ]


@pytest.mark.parametrize(
    ("body", "was", "becomes"),
    [
        ("     if a:\n-        return b\n+        return None\n     c", "return b", "return None"),
        ("-    f(\n-        a,\n-    )\n+    f(\n+    )\n", "f( a, )", "f( )"),
        ("-    gone", "gone", ""),
        ("--1", "-1", ""),
    ],
)
def test_a_mutation_is_told_by_the_lines_that_go_and_come(body: str, was: str, becomes: str) -> None:
    """Whatever stands around them and wherever they are."""
    assert mutmut.changed(f"# name: survived\n--- a.py\n+++ a.py\n@@ -7,3 +7,3 @@\n{body}") == (was, becomes)


ONE, OTHER = Mutation("ci/gate.py", "judged", "a", "b"), Mutation("ci/gate.py", "judged", "a", "c")
ELSEWHERE = Mutation("ci/junit.py", "judged", "a", "b")


def listed(*mutations: Mutation) -> Equivalent:
    return Equivalent(dict.fromkeys(mutations, "never"), {("b", "a"): "the same"})


def test_what_survives_is_listed_or_counts() -> None:
    """Of what is not equivalent; an entry of another module says nothing."""
    assert score("ci/gate.py", 10, [ONE, OTHER, OTHER], listed(OTHER, ELSEWHERE)) == Score("ci/gate.py", 10, (ONE,), 2, ())
    assert score("ci/gate.py", 10, [ONE], listed(ELSEWHERE)).percent == 90.0
    assert score("ci/gate.py", 12, [ONE, OTHER, OTHER], listed(OTHER)).percent == 90.0
    assert score("ci/gate.py", 2, [OTHER, OTHER], listed(OTHER)).percent == 100.0


def test_what_changes_nothing_anywhere_is_equivalent_everywhere() -> None:
    same = Mutation("ci/gate.py", "judged", "f(b)", "f(a)")
    assert score("ci/gate.py", 10, [same, ONE], listed()) == Score("ci/gate.py", 10, (ONE,), 1, ())


def test_an_entry_that_is_noticed_or_gone_is_stale() -> None:
    """The list would grow, and excuse what is made later."""
    assert score("ci/gate.py", 10, [], listed(OTHER)).stale == (OTHER,)


Make = Callable[[Path, Row], None]


def ran(
    monkeypatch: pytest.MonkeyPatch,
    results: str,
    code: int = 0,
    equivalent: Equivalent | None = None,
    make: Make = lambda folder, row: None,
) -> int:
    """The exit code of the command where mutmut says this of two modules, and shows one mutation for every survivor."""

    def answer(command: list[str], stdout: IO[str] | None = None, **_: Any) -> subprocess.CompletedProcess[str]:
        if stdout:
            stdout.write("Running tests\n1/2 \U0001f389 1\r2/2 \U0001f389 2\n\nFailed to run clean test\n")
        texts = {"run": "", "results": results, "show": "--- a\n+++ a\n@@ -1 +1 @@\n-    a\n+    b\n"}
        word = next(word for word in command if word in texts)
        return subprocess.CompletedProcess(command, code if word == "run" else 0, texts[word], "")

    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setattr(copied, "make", make)
    monkeypatch.setattr(command, "equivalent", lambda: equivalent or listed())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    return command.main(["ci/gate.py", "--workers", "1"])


KILLED = "    ci.gate.x_judged__mutmut_1: killed\n    ci.gate.x_judged__mutmut_2: timeout\n"


def test_the_command_passes_where_every_mutant_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A test that does not end has noticed, too."""
    assert ran(monkeypatch, KILLED) == ExitCode.PASS
    assert "ci/gate.py" + " " * 41 + "2       2          0        0  100.0 %" in capsys.readouterr().out


@pytest.mark.parametrize("status", ["survived", "no tests"])
def test_the_command_fails_where_one_survives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: str
) -> None:
    """And prints it as it would be listed."""
    assert ran(monkeypatch, f"{KILLED}    ci.gate.x_judged__mutmut_3: {status}\n") == ExitCode.FAIL
    told = capsys.readouterr().out
    assert "66.7 %" in told
    assert listing([ONE]) in told
    assert listing([ONE]) == "ci/gate.py:\n  judged:\n  - was: a\n    becomes: b\n    why: ''\n"


def test_the_command_passes_where_what_survives_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    survived = f"{KILLED}    ci.gate.x_judged__mutmut_3: survived\n"
    assert ran(monkeypatch, survived, equivalent=listed(ONE)) == ExitCode.PASS


def test_the_command_fails_where_what_is_listed_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(monkeypatch, KILLED, equivalent=listed(ONE)) == ExitCode.FAIL
    assert "listed in equivalent.yaml, but noticed or not made any more; remove it: ci/gate.py judged: a  ->  b" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("results", "code", "said"),
    [
        (KILLED, 1, "exit code 1, no mutants"),
        ("", 0, "exit code 0, no mutants"),
        (f"{KILLED}    ci.gate.x_judged__mutmut_3: not checked\n", 0, "ci.gate.x_judged__mutmut_3 is not checked"),
    ],
    ids=["failed", "nothing", "unfinished"],
)
def test_where_mutmut_does_not_come_to_its_end_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], results: str, code: int, said: str
) -> None:
    """A clean test that fails, no mutants at all, or some that were not tried. The end of mutmut's output says why."""
    assert ran(monkeypatch, results, code) == ExitCode.INFRASTRUCTURE
    told = capsys.readouterr().err
    assert said in told
    assert told.endswith("its last lines are:\nRunning tests\n2/2 \U0001f389 2\nFailed to run clean test\n")


@pytest.mark.parametrize(
    ("code", "ended", "said"), [(-24, ExitCode.PASS, ""), (255, ExitCode.INFRASTRUCTURE, "mutmut_2 is not run")]
)
def test_a_mutant_on_which_no_test_was_run_is_not_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, ended: ExitCode, said: str
) -> None:
    """For mutmut it is a timeout, too, if pytest finds none of the tests that it is asked for."""

    def make(folder: Path, row: Row) -> None:
        (folder / "mutants" / "ci").mkdir(parents=True)
        codes = {"exit_code_by_key": {"ci.gate.x_judged__mutmut_1": 1, "ci.gate.x_judged__mutmut_2": code}}
        (folder / "mutants" / "ci" / "gate.py.meta").write_text(json.dumps(codes), encoding="utf-8")

    assert ran(monkeypatch, KILLED, make=make) == ended
    assert said in capsys.readouterr().err


def test_what_a_row_found_is_told_before_the_next_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is cut off at its time limit, or breaks, has told what it found."""
    found = iter([[Score("ci/gate.py", 10, (ONE,), 0, (OTHER,))]])

    def scored(row: Row, workers: int) -> list[Score]:
        if (scores := next(found, None)) is None:
            raise mutmut.Broken("the second row broke")
        return scores

    monkeypatch.setattr(command, "_scored", scored)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert command.main(["ci/gate.py", "ci/manifest.py"]) == ExitCode.INFRASTRUCTURE
    told = capsys.readouterr()
    first, second = told.out.split("\nci/manifest.py\n")
    assert first.startswith("\nci/gate.py\nmodule ")
    assert "1   90.0 %\n0 s\n" in first
    assert listing([ONE]) in first
    assert "listed in equivalent.yaml, but noticed or not made any more; remove it: ci/gate.py judged: a  ->  c" in first
    assert second == ""
    assert told.err == "error: the second row broke\n"


def test_the_table_of_all_modules_comes_last_with_what_is_left_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    scores = [Score("ci/gate.py", 10, (ONE,), 0, (OTHER,)), Score("ci/junit.py", 2, (), 2, ())]
    assert command.told(scores) == ExitCode.FAIL
    head, *lines, empty, last = capsys.readouterr().out.splitlines()[1:]
    assert (head, empty) == ("all modules", "")
    assert [line.split()[0] for line in lines] == ["module", "ci/gate.py", "ci/junit.py"]
    assert last == "1 unnoticed and not listed, 1 listed in vain; each is named above, under its modules"
    assert command.told(scores[1:]) == ExitCode.PASS


def test_a_module_that_is_in_no_row_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["ci/gat.py"]) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("error: ci/gat.py is in no row of table.yaml")


def test_without_mutmut_one_sentence_says_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert command.main(["ci/gate.py"]) == ExitCode.ENVIRONMENT
    assert capsys.readouterr().err == (
        "error: mutmut is not installed; `nox -s mutants` installs it (requirements/mutants.txt)\n"
    )
