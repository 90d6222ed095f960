"""How a command ends whose output has nowhere to go."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from validation.case import ending

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("package", ["validation", "ci"])
def test_standard_streams_that_are_closed_are_no_error(package: str) -> None:
    """As `>&-` and a service that starts programs without any leave them."""
    words = f"{sys.executable} -m {package} --version"
    for closed in (">&-", "<&- >&- 2>&-"):
        done = subprocess.run(["sh", "-c", f"{words} {closed}"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 4, ""),
        (
            OSError(errno.ENOSPC, "No space left"),
            3,
            "error: the output cannot be written (No space left); make room where it goes\n",
        ),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
    ids=["its reader has gone", "its disk is full", "interrupted"],
)
def test_what_ends_a_command_is_its_exit_code(
    raised: BaseException,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both packages: a gate of which only the head is read must not look red (1)."""

    def command() -> int:
        raise raised

    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert ending.code_of(command) == code
    assert capsys.readouterr().err == said


def test_another_error_is_raised() -> None:
    """It is a defect, which its traceback shows."""

    def command() -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        ending.code_of(command)
