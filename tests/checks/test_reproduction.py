"""The command that is printed for the first failure makes it again, on one rank where one rank has it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.checks.conftest import BROKEN, LAYERS, warm
from validation.checks.again import CHANGED
from validation.checks.first import First
from validation.checks.testcase import message_of
from validation.compare.verdict import FAIL, Verdict
from validation.run.options import parsed

SHARED = ["--set", f"num_layers={LAYERS}", "--steps", "0", "--seed", "7"]


@pytest.mark.parametrize(
    ("defect", "check", "layout", "fewest"),
    [
        ("yarn_scale_dropped", "test_core_attention_output", "tp2", "single"),
        ("reduction_lost", "test_attention_output", "tp2", "tp2"),
    ],
    ids=["modelling", "sharding"],
)
def test_the_first_failure_is_made_again(
    cache: Path, tmp_path: Path, defect: str, check: str, layout: str, fewest: str
) -> None:
    """As it was: the same check fails, in the same way, and nothing else is run."""
    words = ["--layouts", layout, "--implementation", f"{BROKEN}:{defect}", *SHARED]
    first = warm(["run", *words, "--results", str(tmp_path), "--", "-k", check], cache).stdout
    (printed,) = re.findall(r"^Reproduce: (.*)$", first, re.M)
    python, _, module, *again = shlex.split(printed)
    assert (python, module) == ("python", "validation")
    assert again[again.index("--layouts") + 1] == fewest
    again[1:1] = ["--results", str(tmp_path / "again")]
    second = warm(again, cache)
    assert second.returncode == 1
    assert "Overall result: FAIL (1 check, 1 fail" in second.stdout
    assert re.findall(r"^FAIL: .*? - ", first, re.M)[:1] == re.findall(r"^FAIL: .*? - ", second.stdout, re.M)
    assert ("modelling" in second.stdout) == (fewest == "single")


@pytest.mark.parametrize(("said", "twice"), [((CHANGED,), True), ((), False)])
def test_what_two_runs_show_is_run_twice(said: tuple[str, ...], twice: bool) -> None:
    """A case is run once more only in a run that tests itself, which a laptop's does not by default. A message may be cut."""
    settings, verdict = parsed(["--layouts", "tp2"]), Verdict(FAIL, "Loss", reasons=("a long reason " * 30, *said))
    message = message_of(FAIL, verdict, verdict.line)
    assert CHANGED not in message
    how = shlex.split(First.of(settings.cases[0], "Loss", message, verdict).command(settings))
    assert ("--self-test" in how) is twice
    assert how[-2:] == ["--only", "Loss"]
