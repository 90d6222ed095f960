"""What docs/gate.md and docs/quick-start.md print of manifest and gate is what these print now."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ci import junit
from ci.cli import main
from ci.expected import Expected, load
from tests.docs.blocks import CHINESE, README, blocks, rows
from tests.docs.markdown import DOCS, ROOT

SESSIONS = ("cpu_single", "cpu_tp2")
SELF_TEST, UNFINISHED = "self-test-tiny-single-fp64-local-gloo.xml", "tiny-tp2-fp64-local-gloo.xml"


def manifest(folder: Path, *sessions: str) -> tuple[Expected, ...]:
    """The testsuites that are asked for of these sessions."""
    words = [word for session in sessions for word in ("--session", session)]
    assert main(["manifest", *words, "--output", str(folder / "manifest.json")]) == 0
    return load(folder / "manifest.json").suites


def page() -> str:
    return "\n".join(blocks(DOCS / "gate.md", ""))


def test_the_manifest_and_the_green_line_have_these_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = sum(len(suite.checks) for suite in manifest(tmp_path, *SESSIONS))
    said = capsys.readouterr().out.replace(f"{tmp_path}/", "")
    assert said in page()
    assert f"===== Gate: GREEN (4 testsuites, {checks} checks: {checks} pass) =====" in page()


def test_the_red_lines_are_those_of_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job is skipped, a file of the first session is missing, and one of the second says that its run has not ended."""
    suites = {suite.file: suite for suite in manifest(tmp_path, *SESSIONS)}
    (tmp_path / "results-cpu_single").mkdir()
    (tmp_path / "results-cpu_tp2").mkdir()
    unfinished = suites[UNFINISHED]
    junit.write_unfinished(tmp_path / "results-cpu_tp2" / UNFINISHED, unfinished.name, unfinished.properties)
    jobs = {"hosted": {"result": "success"}, "self-hosted": {"result": "skipped"}}
    capsys.readouterr()
    judging = ["gate", "--manifest", str(tmp_path / "manifest.json"), "--results", str(tmp_path), "--needs", json.dumps(jobs)]
    assert main(judging) == 1
    said = set(capsys.readouterr().out.splitlines())
    shown = re.findall(r"^red: .*$", page(), re.MULTILINE)
    assert len(shown) == 3
    assert set(shown) <= said
    there = [suite for suite in suites.values() if suite.file not in (SELF_TEST, UNFINISHED)]
    passing = sum(len(suite.checks) for suite in there)
    assert f"RED, 3 reasons (3 testsuites, {passing + 1} checks: {passing} pass, 1 not decided) =====" in page()


def test_the_words_of_each_reason_are_the_codes() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "ci").glob("*.py")))
    said = [re.findall("`([^`]+)`", row[1]) for row in rows(DOCS / "gate.md", "about")]
    assert len(said) > 10
    assert all(said)
    assert [part for words in said for word in words for part in word.split("...") if part not in code] == []


def test_parity_has_as_many_cases_and_checks(tmp_path: Path) -> None:
    cases = [suite for suite in manifest(tmp_path, "parity") if suite.ranks]
    checks = sum(len(suite.checks) for suite in cases)
    assert f"Overall result: PASS ({len(cases)} cases, {checks} checks, " in (DOCS / "quick-start.md").read_text(
        encoding="utf-8"
    )
    for text, word in ((README, "cases"), (CHINESE, "个用例"), (DOCS / "quick-start.md", "cases")):
        assert f" {len(cases)} {word}" in text.read_text(encoding="utf-8")
