"""Tests that share what takes long to make run in one process, and those groups come first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parts import GROUPS, group_of, longest_first

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("file", [file for files in GROUPS.values() for file in files])
def test_every_file_that_is_named_is_there(file: str) -> None:
    """One that is renamed would be divided among processes, and what it shares be made several times."""
    assert (ROOT / file).exists()


def test_tests_that_use_the_shared_runs_are_of_one_group() -> None:
    """The fixtures `broken` and `sound` run seventeen wrong models and a right one."""
    users = [
        file
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if "broken: dict[str, Output]" in file.read_text() or "sound: Output" in file.read_text()
    ]
    found = {group_of(f"{file.relative_to(ROOT)}::test_it") for file in users if file != Path(__file__)}
    assert found == {"wrong models and a right one"}


def test_a_file_is_a_group_of_its_own_unless_it_is_named() -> None:
    assert group_of("tests/ci/test_gate.py::test_green[one::two]") == "tests/ci/test_gate.py"
    assert group_of("tests/workflows/test_files.py::test_it") == group_of("tests/workflows/test_command.py::test_it")


def test_named_groups_come_first_and_the_others_as_they_are() -> None:
    names = ["tests/b.py::one", "tests/checks/test_sound_run.py::one", "tests/a.py::one", "tests/workflows/test_files.py::one"]
    assert longest_first(names) == [3, 1, 0, 2]


def test_no_two_test_modules_of_one_name_are_collected() -> None:
    """In folders that are no packages pytest imports them by their basename: the second would not run."""
    files = [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if "node_modules" not in file.parts]
    names = [file.name for file in files if not (file.parent / "__init__.py").exists()]
    assert [name for name in names if names.count(name) > 1] == []
