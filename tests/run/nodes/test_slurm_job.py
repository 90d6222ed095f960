"""What is said of a job before Slurm has it, and the file that Slurm gets. A real Slurm runs it in tests/nodes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from validation.case.errors import EnvironmentMissing, InfrastructureError, PlumblineError, UsageError
from validation.cli import main
from validation.run.nodes import slurm


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["slurm", *words]) == 2
    return capsys.readouterr().err


def test_the_file_has_a_task_a_node_and_is_bash(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--nodes", "3", "--sbatch=--partition=gpu", "--sbatch=--time=10", "--folder", "/shared"]
    assert main(["slurm", "show", *given, "--", "--layouts", "tp2", "--only", "a 'b'"]) == 0
    text = capsys.readouterr().out
    assert "@" not in text
    head = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --nodes=3", "#SBATCH --ntasks-per-node=1", "#SBATCH --partition=gpu", "#SBATCH --time=10"} <= set(head)
    assert text.splitlines()[0] == "#!/bin/bash"
    checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert """run --layouts tp2 --only 'a '"'"'b'"'"'' --results /shared/job-NAME/results""" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run"], "no words of a run; give them behind --"),
        (["run", "--nodes", "0", "--", "--tp", "2"], "--nodes 0: give 1 to 1024"),
        (["show", "--sbatch=partition", "--", "--tp", "2"], "--sbatch 'partition': give one option of sbatch"),
        (["show", "--", "--tp", "2", "--nnodes", "2"], "leave --nnodes, --node-rank, --rdzv-endpoint and --cluster out"),
        (["show", "--", "--layouts", "tq2"], "tq2"),
    ],
)
def test_what_is_wrong_is_said_before_a_job_waits(capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    assert sentence in said(capsys, *words)


def test_a_machine_without_slurm_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(EnvironmentMissing, match=r"^sbatch, scancel, scontrol: not found; .* login node$"):
        slurm.find()


def test_a_folder_that_slurm_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has a space or a %"):
        slurm.new_folder(tmp_path / "a b")
    assert list((tmp_path / "a b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"^--folder .*file: "):
        slurm.new_folder(tmp_path / "file")


@pytest.fixture
def job(tmp_path: Path) -> slurm.Job:
    return slurm.Job(("--tp", "2"), 2, (), tmp_path)


def test_the_exit_code_is_the_runs_or_none_at_all(job: slurm.Job) -> None:
    """A job that was ended from outside has left none: Slurm's own code would say that a check failed."""
    (job.folder / "job.txt").write_text("first\nslurmstepd: error: *** JOB 7 CANCELLED DUE TO TIME LIMIT ***\n")
    with pytest.raises(
        InfrastructureError, match=r"^Slurm job 7 ended as TIMEOUT before the run had \(slurmstepd: .* TIME LIMIT"
    ):
        slurm._exit_code("7", job, "TIMEOUT")
    (job.folder / "exit-code").write_text("1\n")
    assert slurm._exit_code("7", job, "COMPLETED") == 1


@pytest.mark.parametrize(
    ("line", "code", "sentence"),
    [
        (
            "Batch job submission failed: Unable to contact slurm controller (connect failure)",
            4,
            "no controller of Slurm answers",
        ),
        ("Batch job submission failed: Socket timed out on send/recv operation", 4, "then try again"),
        ("Batch job submission failed: Protocol authentication error", 3, "run this on a login node"),
        ("fatal: Could not establish a configuration source", 3, "is not set up on this machine"),
        ("Batch job submission failed: Invalid partition name specified", 2, "sbatch does not take the job"),
    ],
)
def test_why_slurm_has_no_job_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, job: slurm.Job, line: str, code: int, sentence: str
) -> None:
    """What may be tried again, what the machine lacks, and what is wrong with the job."""
    ended = subprocess.CompletedProcess([], 1, "", f"sbatch: warning: before it\nsbatch: error: {line}\n")
    monkeypatch.setattr(subprocess, "run", lambda *given, **named: ended)
    with pytest.raises(PlumblineError, match=sentence) as raised:
        slurm.run(job, print)
    assert raised.value.exit_code == code
    assert line in str(raised.value)


def test_an_sbatch_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, job: slurm.Job) -> None:
    def hangs(command: list[str], **named: Any) -> None:
        raise subprocess.TimeoutExpired(command, named["timeout"])

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(InfrastructureError, match="sbatch says nothing for 120 s"):
        slurm.run(job, print)


def test_an_interrupt_while_sbatch_submits_cancels_the_job(
    monkeypatch: pytest.MonkeyPatch, job: slurm.Job, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm has taken it, and nobody but sbatch knows its number."""
    asked: list[str] = []

    def slowly(command: list[str], **named: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[0])
        if command[0] == "sbatch":
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return subprocess.CompletedProcess(command, 0, "7\n", "")

    monkeypatch.setattr(subprocess, "run", slowly)
    with pytest.raises(KeyboardInterrupt):
        slurm.run(job, print)
    assert asked == ["sbatch", "scancel"]
    assert capsys.readouterr().out == "Slurm job 7 was cancelled\n"


def test_reports_are_brought_back_whole(job: slurm.Job, tmp_path: Path) -> None:
    """In the place of those of the run before, and nothing that is no report."""
    to = tmp_path / "mine"
    to.mkdir()
    (to / "a.xml").write_text("old")
    job.results.mkdir()
    (job.results / "a.xml").write_text("new")
    (job.results / "debug").mkdir()
    assert slurm.bring_back(job, to) == 1
    assert [(path.name, path.read_text()) for path in to.iterdir()] == [("a.xml", "new")]
