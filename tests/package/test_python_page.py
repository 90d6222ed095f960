"""The examples of docs/python.md run as they stand there: in a team's pytest, and as a notebook runs its cells."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import plumbline

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```python (?P<name>\S+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name: str) -> list[str]:
    return [found["code"] for found in FENCE.finditer(PAGE) if found["name"] == name]


def test_a_teams_pytest_is_red_with_the_diagnosis(tmp_path: Path) -> None:
    """The layer spec lies beside the test, in a folder that only pytest knows; options of that pytest change nothing."""
    (example,) = blocks("test_parity.py")
    folder = tmp_path / "model" / "tests"
    folder.mkdir(parents=True)
    (folder / "test_parity.py").write_text(example, encoding="utf-8")
    shutil.copy(ROOT / "tests" / "checks" / "broken_specs.py", folder / "my_spec.py")
    with open(folder / "my_spec.py", "a", encoding="utf-8") as file:
        file.write("\n\nlayers = reduction_lost\n")
    variables = {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "-k model -p no:logging"}
    words = ["-m", "pytest", "-q", "model", "-o", "addopts=--strict-markers", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "AssertionError: FAIL: " in done.stdout
    assert "likely a missing tensor-parallel reduction, first at Layer 0 Attention Output" in done.stdout
    assert "Reproduce: " in done.stdout


async def _cells(namespace: dict[str, Any]) -> list[Any]:
    """What a notebook shows of each cell: the value of its last line. The event loop runs, as in a kernel."""
    shown = []
    for cell in blocks("notebook"):
        *before, last = cell.strip().splitlines()
        exec(compile("\n".join(before), "cell", "exec"), namespace)
        shown.append(eval(compile(last.strip(), "cell", "eval"), namespace))
    return shown


def test_the_cells_of_a_notebook_run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress goes to standard error, plain, though a kernel asks for colours; files that are gone are not named."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    namespace: dict[str, Any] = {}
    report, frame = asyncio.run(_cells(namespace))
    assert isinstance(report, plumbline.Report)
    assert report.passed, report
    assert [case.layout for case in report.cases] == ["single", "tp2"]
    assert report._repr_html_().startswith("<div>")
    assert set(frame.component) == {"mla"}
    assert frame.rel_error.is_monotonic_increasing
    said = capfd.readouterr().err
    assert "Overall result: PASS" in said
    assert "\x1b" not in said
    assert "JUnit: " not in said


def test_a_check_in_a_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of some checks, with variables of pytest around that would leave out all."""
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing --no-such-option")
    monkeypatch.setenv("PYTEST_PLUGINS", "no_such_plugin")
    with ThreadPoolExecutor() as pool:
        report = pool.submit(plumbline.check, "single", only="Layer 0 Attention Output", results=tmp_path, steps=0).result()
    assert report.passed, report
    assert report.left_out > 0
    (check,) = report.checks
    assert (check.component, check.verdict, check.ranks) == ("mla", "pass", (0,))
    assert check.rel_error is not None
    assert check.tolerance is not None
    assert 0 < check.rel_error < check.tolerance
    (case,) = report.cases
    assert case.junit is not None
    assert case.junit.parent == tmp_path
    assert case.junit.is_file()


def test_what_cannot_run_is_an_exception_with_the_sentence_of_the_command() -> None:
    with pytest.raises(plumbline.UsageError, match="tp3 does not divide the 4 attention heads"):
        plumbline.check("tp3")
    with pytest.raises(plumbline.EnvironmentMissing, match="GPU"):
        plumbline.check("tp2", transport="nccl")
