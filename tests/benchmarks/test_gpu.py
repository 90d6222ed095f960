"""The program for one GPU goes on whatever comes of a command, and says of each case what its JUnit file says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from ci import junit

PROPERTIES = {"rank_0_peak_gpu_memory_mib": "700", "rank_1_peak_gpu_memory_mib": "900"}


def check(name: str, status: str = "pass", error: str = "1e-7", message: str = "") -> junit.Check:
    return junit.Check("validation", name, status, message=message, properties={"rel_error": error, "tolerance": "1e-6"})


def suite(*checks: junit.Check) -> junit.Suite:
    return junit.Suite("case", checks, PROPERTIES, seconds=1.5)


def test_a_row_has_the_check_that_is_nearest_to_its_limit(tmp_path: Path) -> None:
    """A known bug is far behind its own, which is why it is known."""
    junit.write(tmp_path / "case.xml", suite(check("a"), check("b", error="5e-7"), check("c", "known", "1", "a link")))
    found = gpu.row(tmp_path / "case.xml", "case", 0, "")
    assert (found.verdict, found.checks, found.failed, found.known) == ("pass", 3, 0, 1)
    assert (found.worst, found.worst_check) == ("0.5", "b")
    assert (found.seconds, found.gpu_mib) == (1.5, 900)


@pytest.mark.parametrize(("status", "verdict"), [("fail", "fail"), ("error", "broken")])
def test_a_case_that_did_not_pass_keeps_its_message(tmp_path: Path, status: str, verdict: str) -> None:
    junit.write(tmp_path / "case.xml", suite(check("a"), check("b", status, "3e-6", "b is\nwrong")))
    found = gpu.row(tmp_path / "case.xml", "case", 1, "")
    assert (found.verdict, found.failed, found.message) == (verdict, 1, "b is wrong")


def test_a_command_that_left_nothing_is_told_by_its_exit_code_and_last_line(tmp_path: Path) -> None:
    found = gpu.row(tmp_path / "none.xml", "case", 3, "said\nerror: no GPU\n\n")
    assert (found.verdict, found.message) == ("exit 3", "error: no GPU")


def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Any, *words: str) -> tuple[int, list[dict[str, Any]]]:
    monkeypatch.setattr(gpu, "command", command)
    monkeypatch.setattr(gpu, "_facts", dict)
    monkeypatch.setattr(gpu, "gpus", lambda: 1)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), "--only", "local/fp32,te/bf16", *words])
    code = gpu.main()
    return code, json.loads((tmp_path / "gpu.json").read_text())["rows"]


def test_it_goes_on_when_a_command_breaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(words: list[str]) -> int:
        raise OSError("no such device")

    code, rows = started(monkeypatch, tmp_path, broken)
    assert code == 1
    assert [row["case"] for row in rows][:2] == ["mini-single-fp32-local-nccl", "mini-tp2-fp32-local-staged"]
    assert len(rows) == 14
    assert {row["verdict"] for row in rows} == {"exit 1"}
    written = (tmp_path / "gpu.md").read_text()
    assert "no such device" in written
    assert "--share-gpu 4: 6 cases in " in written


def test_what_there_is_no_time_for_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, rows = started(monkeypatch, tmp_path, lambda words: 0, "--seconds", "0")
    assert code == 1
    assert {row["verdict"] for row in rows} == {"not run"}
    assert " s each" not in (tmp_path / "gpu.md").read_text()


@pytest.mark.parametrize(("words", "asked"), [((), None), (("--jobs", "1"), "1")])
def test_as_many_cases_run_at_a_time_as_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], asked: str | None
) -> None:
    commands: list[list[str]] = []

    def command(words: list[str]) -> int:
        commands.append(words)
        return 0

    started(monkeypatch, tmp_path, command, *words)
    assert {one[one.index("--jobs") + 1] if "--jobs" in one else None for one in commands} == {asked}


def test_an_unknown_group_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), "--only", "local/fp8"])
    assert gpu.main() == 2
    assert "--only local/fp8 is unknown; known are tiny/local/fp64" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [((), 3), (("--rehearse", "--seconds", "0"), 1)])
def test_without_a_gpu_nothing_is_run_unless_it_is_a_rehearsal(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: 0)
    monkeypatch.setattr(gpu, "command", lambda words: pytest.fail("it ran a case"))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out"), *words])
    assert gpu.main() == code
    said = "every case needs a GPU, and none was found; --rehearse runs on the CPU\n"
    assert capsys.readouterr().err == (said if code == 3 else "")
    assert (tmp_path / "out").exists() == (code != 3)


@pytest.mark.parametrize("fp8", ["delayed", "blockwise"])
def test_fp8_is_a_group_of_its_own(fp8: str) -> None:
    """A bf16 model, and the option for both of its commands."""
    (group,) = (one for one in gpu.GROUPS if one.name == f"te/fp8-{fp8}")
    for words in group.commands(rehearse=False):
        text = " ".join(words)
        assert f"--implementation te --precision bf16 --fp8 {fp8}" in text
