"""What a cluster allows a process is asked before ranks start, and made more of where that is possible."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from validation import machine
from validation.case.errors import EnvironmentMissing
from validation.run import jobs, limits
from validation.run.options import parsed

INFINITY = resource.RLIM_INFINITY
CASES = parsed(["--layouts", "single,tp2pp2"]).cases
STAGED = parsed(["--layouts", "single,tp2pp2", "--transport", "staged-cpu"]).cases


@pytest.mark.parametrize(
    ("soft", "hard", "then"), [(64, 1 << 20, 4096), (64, 200, 200), (64, INFINITY, 4096), (10000, 1 << 20, 10000), (64, 64, 64)]
)
def test_the_soft_limit_is_raised_as_far_as_it_may_be(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, then: int) -> None:
    """No further than is of use: some programs go through every file that they may have."""
    now = [soft, hard]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", lambda which, given: now.__setitem__(slice(None), given))
    limits.allow_open_files()
    assert now == [then, hard]


def test_the_files_of_the_largest_case_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four ranks need more than one, and those that share a GPU more than those that talk over gloo."""
    monkeypatch.setattr(limits, "hard_limit", lambda: 90)
    limits.check(CASES[:1], 1)
    for cases, needed in ((CASES, 104), (STAGED, 128)):
        words = f"a rank has about {needed} files open and may have 90; raise that limit with `ulimit -n {needed}`"
        with pytest.raises(EnvironmentMissing, match=words):
            limits.check(cases, 1)


def test_threads_are_counted_of_all_that_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One case of four ranks, and beside it one of a single rank; fewer threads are no reason to refuse one at a time."""
    for cases, there, needed in ((CASES, 90, 108), (STAGED, 250, 278)):
        monkeypatch.setattr(limits, "available_threads", lambda there=there: there)
        limits.check(cases, 1)
        assert jobs.at_once(cases) == 1
        with pytest.raises(EnvironmentMissing, match=rf"about {needed} threads and {there} more may be started.*--jobs 1"):
            limits.check(cases, 2)
    monkeypatch.setattr(limits, "available_threads", lambda: None)
    limits.check(CASES, 2)
    assert jobs.at_once(CASES) == 2


def test_ranks_that_share_a_gpu_have_what_was_measured() -> None:
    """On an H200: 177 files and 67 threads in each of four."""
    cases = parsed(["--share-gpu", "4", "--layouts", "tp2pp2"]).cases
    assert 177 <= limits._files(cases[0]) < 1.3 * 177
    assert 4 * 67 <= limits._threads(cases, 1) < 1.3 * 4 * 67


def test_what_a_control_group_leaves_of_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The narrowest on the way up counts."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/job/step\n")
    for group, limit, used in (("job", "100", "60"), ("job/step", "max", "10")):
        folder = tmp_path / "cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pids.max").write_text(limit + "\n")
        (folder / "pids.current").write_text(used + "\n")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (INFINITY, INFINITY))
    assert machine.available_threads() == 40


def test_a_command_with_few_files_ends_with_3_and_how_many_are_needed(tmp_path: Path) -> None:
    """As a cluster's shell has it; nothing is started."""
    words = ["run", "--layouts", "tp2", "--steps", "0", "--results", str(tmp_path / "results")]
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
        "from validation.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr == (
        "error: a rank has about 88 files open and may have 64; raise that limit with `ulimit -n 88` before the run "
        "(beyond a hard limit root does it, or `nofile` in /etc/security/limits.conf), or choose a layout of fewer ranks\n"
    )


LEAVES_A_WORD = """
import resource, sys
from pathlib import Path
from validation.run.report import RankReport

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with RankReport(Path(sys.argv[1]), 0).last_words():
    held = [open("/dev/null") for _ in range(64)]
"""


def test_a_rank_that_can_open_no_file_says_so(tmp_path: Path) -> None:
    """Its last word is a file, too."""
    command = [sys.executable, "-c", LEAVES_A_WORD, str(tmp_path)]
    subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=1800, check=False)
    left = json.loads((tmp_path / "rank-0.error").read_text())
    assert "Too many open files" in left["error"]
    assert left["exit_code"] == 3


def test_a_container_s_quota_is_the_number_of_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of 64 cores that gives a job two and a half: more threads would only wait for each other."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    assert machine.cores() == 64
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/job/step\n")
    for group, limit in (("job", "250000 100000"), ("job/step", "max 100000")):
        folder = tmp_path / "cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(limit + "\n")
    assert machine.cores() == 3
