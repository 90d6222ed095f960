"""Checks that are run straight behave as pytest's users know it, and what needs more gets pytest's own protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFTEST = """
from validation.checks.protocol import Straight

def pytest_configure(config):
    config.pluginmanager.register(Straight())

def pytest_runtest_logreport(report):
    print(f"{report.when}:{report.nodeid.rpartition('::')[2]}:{report.outcome}")
"""
CHECKS = """
import pytest

@pytest.mark.parametrize("number", [1, 2, 3])
def test_number(number):
    assert number != 2
    if number == 3:
        pytest.xfail("known")
"""
WITH_FIXTURE = """
import pytest

@pytest.fixture
def one():
    return 1

@pytest.mark.parametrize("number", [1])
def test_fixture(number, one):
    assert number == one
"""


def run(folder: Path, *options: str, more: str = "") -> list[str]:
    """The reports of a pytest run, as `when:name:outcome`."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_numbers.py").write_text(CHECKS)
    (folder / "test_own.py").write_text(more)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", *options, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    lines = (line.lstrip(".FxE") for line in done.stdout.replace("test_numbers.py ", "").splitlines())
    return [line for line in lines if line.count(":") == 2 and line.startswith(("setup:", "call:", "teardown:"))]


def test_a_check_is_called_and_reported_once(tmp_path: Path) -> None:
    assert run(tmp_path) == ["call:test_number[1]:passed", "call:test_number[2]:failed", "call:test_number[3]:skipped"]


def test_the_first_failure_ends_the_run_if_asked_to(tmp_path: Path) -> None:
    assert run(tmp_path, "-x") == ["call:test_number[1]:passed", "call:test_number[2]:failed"]


@pytest.mark.parametrize("options", [(), ("--junitxml", "own.xml")], ids=["fixture", "junitxml"])
def test_pytest_does_it_all_where_one_check_needs_more(tmp_path: Path, options: tuple[str, ...]) -> None:
    reports = run(tmp_path, *options, more="" if options else WITH_FIXTURE)
    assert [line for line in reports if line.startswith(("setup", "teardown"))]
    assert "call:test_number[2]:failed" in reports
    assert options or "call:test_fixture[1]:passed" in reports
