"""Every block of commands in docs/runner.md is run by `nox -s runner_page`, or says why it is not."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.runner.steps import PAGE, Step, script, steps


def text() -> str:
    """The page."""
    return PAGE.read_text(encoding="utf-8")


def test_every_block_of_commands_is_run_or_says_why_not() -> None:
    found = steps(text())
    opened = [line for line in text().splitlines() if line.startswith("```")][::2]
    assert len(found) == len([line for line in opened if line != "```text"])
    assert [step.title for step in found if step.skipped and len(step.skipped) < 10] == []
    assert len([step for step in found if not step.skipped]) >= 3


def test_a_block_without_a_mark_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\. Try: the block that begins with 'reboot' has no mark"):
        steps("## 1. Try\n\n```\nreboot\n```\n")


def test_what_is_skipped_needs_what_no_fresh_root_has() -> None:
    """A driver, a GPU or GitHub: commands that need none of them are run."""
    for step in steps(text()):
        if step.skipped:
            assert re.search("NVIDIA|GitHub", step.skipped), step.title


def run(*chosen: Step) -> subprocess.CompletedProcess[str]:
    """The steps, as the fresh root's shell runs them."""
    return subprocess.run(["bash", "-c", script(chosen)], capture_output=True, text=True, timeout=1800, check=False)


def test_steps_share_a_shell_and_skipped_ones_are_told() -> None:
    done = run(
        Step("1", "cd /\nexport A=b\n"),
        Step("2", "reboot\n", skipped="needs NVIDIA's GPU"),
        Step("3", 'echo "$PWD $A" # said\n'),
    )
    assert done.returncode == 0
    assert "===== skipped, needs NVIDIA's GPU: 2: reboot" in done.stdout
    assert "\n/ b\n" in done.stdout
    assert done.stdout.count("===== done") == 2


def test_a_step_that_fails_ends_it() -> None:
    done = run(Step("1", "echo one\nfalse\necho two\n"), Step("2", "echo three\n"))
    assert done.returncode == 1
    assert "two" not in done.stdout
    assert "three" not in done.stdout


@pytest.mark.parametrize(("command", "code"), [("(exit 3)  # says why\n", 0), ("true\n", 1), ("(exit 4)\n", 1)])
def test_a_step_that_must_fail_must_fail_with_its_code(command: str, code: int) -> None:
    assert run(Step("1", command, code=3)).returncode == code
