"""`python -m tests.workflows`: the table of scenarios and gates, as they come out now."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.workflows.scenarios import SCENARIOS, Played, Scenario, play_all


def line(scenario: Scenario, played: Played) -> str:
    """A row: what happens, how each job ends, the gate, and its first reason."""
    jobs = ", ".join(f"{name.removeprefix('plumbline / ')} {result}" for name, result in played.jobs.items() if "/" in name)
    said = played.output("gate", "Judge").splitlines() if played.gate not in ("", "skipped") else [""]
    return f"| {scenario.what} | {jobs or 'not started'} | {played.gate or 'none'} | {said[0][:160]} |\n"


if __name__ == "__main__":
    sys.stdout.write("| scenario | jobs | gate | first line of the gate |\n| --- | --- | --- | --- |\n")
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="plumbline-scenarios-") as folder:
        for name, played in play_all(Path(folder)).items():
            sys.stdout.write(line(SCENARIOS[name], played))
            wrong += played.gate != SCENARIOS[name].gate
    sys.exit(min(wrong, 1))
