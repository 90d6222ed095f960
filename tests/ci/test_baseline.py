"""A baseline is kept on purpose: of green results, and of drifted ones only with a reason."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit
from ci.cli import main
from ci.expected import save
from tests.ci.green import COMMIT, EXPECTED, FILE, MANIFEST, NUMBERS, SUITE, command_line, with_check

NEARER = with_check(1, properties={**NUMBERS, "rel_error": "9e-11"})(SUITE)


def keep(folder: Path, *words: str) -> int:
    """The command, on the results that are there."""
    anew = not (folder / "manifest.json").exists()
    return main(["baseline", *command_line(folder, anew), "--output", str(folder / "base"), *words])


def about(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "base" / "baseline.json").read_text())
    return found


def test_green_results_are_kept_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keep(tmp_path) == 0
    assert junit.read(tmp_path / "base" / FILE) == SUITE
    assert about(tmp_path) == {"commit": COMMIT, "accepted": ""}
    assert capsys.readouterr().out == f"{tmp_path / 'base'}: 1 testsuite, 4 checks: 3 pass, 1 with a known upstream bug\n"
    assert main(["drift", "--base", str(tmp_path / "base"), "--results", str(tmp_path / "results")]) == 0


def test_what_the_gate_refuses_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path)
    capsys.readouterr()
    junit.write(tmp_path / "results" / FILE, with_check(1, status="fail", message="FAIL: a")(SUITE))
    assert keep(tmp_path, "--accept", "I want it") == 1
    assert capsys.readouterr().out == (
        f"Nothing is kept: the gate is red (1 reason, the first: {FILE}: 1 check fails: Layer 0 Query (mla); "
        "the first in the flow of data: FAIL: a)\n"
    )
    assert junit.read(tmp_path / "base" / FILE) == SUITE


def test_a_baseline_follows_results_that_have_not_drifted(tmp_path: Path) -> None:
    keep(tmp_path)
    closer = with_check(1, properties={**NUMBERS, "rel_error": "3e-15"})(SUITE)
    junit.write(tmp_path / "results" / FILE, closer)
    assert keep(tmp_path, "--accept", "in case it has") == 0
    assert junit.read(tmp_path / "base" / FILE) == closer
    assert about(tmp_path)["accepted"] == ""


def test_drifted_results_are_kept_with_a_reason_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path)
    junit.write(tmp_path / "results" / FILE, NEARER)
    assert keep(tmp_path) == 1
    assert "Nothing is kept: the results have drifted (1 reason, the first: " in capsys.readouterr().out
    assert junit.read(tmp_path / "base" / FILE) == SUITE
    assert keep(tmp_path, "--accept", "  torch sums in another order ") == 0
    assert junit.read(tmp_path / "base" / FILE) == NEARER
    assert about(tmp_path)["accepted"] == "torch sums in another order"


def test_the_factor_of_a_drift_is_the_user_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default it is 2, as for `ci drift`; a refusal counts the reasons."""
    keep(tmp_path)
    other = with_check(2, properties={**NUMBERS, "rel_error": "8e-11"})
    junit.write(tmp_path / "results" / FILE, other(NEARER))
    capsys.readouterr()
    assert keep(tmp_path, "--factor", "899") == 1
    said = capsys.readouterr().out
    assert said.startswith("Nothing is kept: the results have drifted (1 reason, the first: tiny-tp2-fp64-local-gloo.xml: ")
    assert said.endswith("it has grown more than is allowed); --accept WHY keeps them\n")
    assert keep(tmp_path, "--factor", "901") == 0
    assert about(tmp_path)["accepted"] == ""


def test_nothing_of_the_baseline_before_stays(tmp_path: Path) -> None:
    """Whatever was put beside its files."""
    assert keep(tmp_path) == 0
    (tmp_path / "base" / "old.txt").write_text("a")
    assert keep(tmp_path) == 0
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == ["baseline.json", FILE]


def test_only_what_the_manifest_names_is_kept(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "notes.txt").write_text("a")
    keep(tmp_path)
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == ["baseline.json", FILE]


def test_sessions_are_kept_apart(tmp_path: Path) -> None:
    """Drift finds each where its results lie, too."""
    command_line(tmp_path)
    save(tmp_path / "manifest.json", replace(MANIFEST, suites=(replace(EXPECTED, session="a"),)))
    (tmp_path / "results" / "results-a").mkdir()
    (tmp_path / "results" / FILE).rename(tmp_path / "results" / "results-a" / FILE)
    assert keep(tmp_path) == 0
    assert junit.read(tmp_path / "base" / "results-a" / FILE) == SUITE


def of_session(folder: Path, session: str) -> None:
    """A manifest and results of this session alone."""
    shutil.rmtree(folder / "results")
    junit.write(folder / "results" / f"results-{session}" / FILE, SUITE)
    save(folder / "manifest.json", replace(MANIFEST, suites=(replace(EXPECTED, session=session),)))


@pytest.mark.parametrize(("before", "code"), [("parity_bf16", 0), ("parity_old", 1)])
def test_a_session_that_is_gone_is_the_same_here_as_for_drift(tmp_path: Path, before: str, code: int) -> None:
    """Else the one would be green in the pull request that removes it, and the other red in every run after it."""
    command_line(tmp_path)
    of_session(tmp_path, before)
    assert keep(tmp_path) == 0
    of_session(tmp_path, "parity")
    words = ["--base", str(tmp_path / "base"), *command_line(tmp_path, anew=False)]
    assert main(["drift", *words]) == code
    assert keep(tmp_path) == code
    assert keep(tmp_path, "--accept", "parity has it all") == 0


def test_a_folder_that_is_no_baseline_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "thesis.txt").write_text("mine")
    assert keep(tmp_path) == 2
    said = "is no baseline, and nothing of it is overwritten; name another folder"
    assert capsys.readouterr().err == f"error: --output {tmp_path / 'base'}: {said}\n"
    assert (tmp_path / "base" / "thesis.txt").read_text() == "mine"


def test_a_full_disk_leaves_the_old_baseline_and_no_part_of_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 3: no result is wrong."""
    assert keep(tmp_path) == 0

    def full(path: Path, suite: junit.Suite) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(junit, "write", full)
    before = sorted(tmp_path.iterdir())
    assert main(["baseline", *command_line(tmp_path, anew=False), "--output", str(tmp_path / "base")]) == 3
    assert "no space, or no inode, is left; make room there" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
    assert junit.read(tmp_path / "base" / FILE) == SUITE
